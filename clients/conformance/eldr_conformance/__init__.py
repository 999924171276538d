"""Conformance of ELDR clients, in any language."""
