"""Policies: what picks a worker. One file a policy; see README.md for the table of all."""
