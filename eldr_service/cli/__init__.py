"""`eldr`: inspects and steers a running daemon. One file per group of commands."""

from eldr_service.cli.app import main

__all__ = ["main"]
