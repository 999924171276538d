"""Where benchmarks write their figures for programs."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "build" / "bench"


def written(name: str, document: dict[str, Any]) -> Path:
    """Write build/bench/NAME.json, and print its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {path}")
    return path
