"""Types of argparse for the options that say how the daemon is reached."""

import argparse
from pathlib import Path

from eldr_client.addresses import Addresses


def address(text: str) -> str:
    """Where the router is, as `Addresses` are written."""
    try:
        return Addresses(text).text
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def contents(path: str) -> bytes:
    """What a file holds."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from error


def token(path: str) -> str:
    """The bearer token in a file."""
    return contents(path).decode().strip()
