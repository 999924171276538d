"""In the engine core: follows the requests, plans each step, speaks to the daemon."""
