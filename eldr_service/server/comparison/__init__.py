"""Estimates what load alone would have done with the same requests."""
