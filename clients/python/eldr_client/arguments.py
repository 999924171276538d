"""argparse types for the options that say how to reach the daemon."""

import argparse
from pathlib import Path

from eldr_client.addresses import Addresses


def address(text: str) -> str:
    """The router's address, in the notation of `Addresses`."""
    try:
        return Addresses(text).text
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def contents(path: str) -> bytes:
    """The contents of a file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from error


def token(path: str) -> str:
    """The bearer token in a file."""
    return contents(path).decode().strip()
