"""Decode pools in virtual time: step costs, recorded routing, arrivals."""
