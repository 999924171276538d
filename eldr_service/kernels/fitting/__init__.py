"""The arithmetic of `eldr_service.fitting`."""
