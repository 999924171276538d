"""The arithmetic of `eldr_service.core`, and of other parts of the router."""
