"""`eldr`: looks at and steers a running daemon. One file a group of commands."""

from eldr_service.cli.app import main

__all__ = ["main"]
