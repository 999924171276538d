"""In the engine core: follows requests, plans each step, talks to the daemon."""
