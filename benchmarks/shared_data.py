"""Where the public recordings, traces and tables are: beside the checkout."""

import sys
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"
ACTIVATIONS = SHARED / "activations"


def need_recordings() -> None:
    """End the program, with a message, where the recordings are not."""
    if not ACTIVATIONS.is_dir():
        sys.exit(f"{ACTIVATIONS}: the public recordings are not here")
