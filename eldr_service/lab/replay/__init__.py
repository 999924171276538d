"""Decides again what a decision log tells of, by the same code and by any policy."""
