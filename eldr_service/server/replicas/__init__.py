"""Several daemons as one router: each decides on its view, and commits what it did to one state."""
