"""The arithmetic of `eldr_service.core`, and of what the router asks of it."""
