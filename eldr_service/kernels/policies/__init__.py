"""The arithmetic of `eldr_service.policies`, file by file."""
