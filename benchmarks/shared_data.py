"""Where the public recordings, traces and tables are: beside the checkout."""

import sys
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"
ACTIVATIONS = SHARED / "activations"


def need_recordings() -> None:
    """Exit with a message if the recordings are missing."""
    if not ACTIVATIONS.is_dir():
        sys.exit(f"{ACTIVATIONS}: expected the public recordings, found nothing")
