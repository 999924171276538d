"""Decides a decision log again, with the same code and any policy."""
