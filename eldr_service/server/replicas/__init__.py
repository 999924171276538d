"""Several daemons as one router: each decides on its own view, and commits to one shared state."""
