"""The matrix as a file that runs extend, and as a table in a README."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.written import FOLDER

BEGIN, END = "<!-- capture matrix -->", "<!-- end of the capture matrix -->"
_KEY = ("vllm", "configuration", "architecture")


def add(name: str, cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Write a cell to build/bench/NAME.json, replacing an older one; returns all in the file."""
    path = FOLDER / f"{name}.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else []
    cells = [old for old in cells if any(old[key] != cell[key] for key in _KEY)] + [cell]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells}, indent=1) + "\n")
    return cells


def markdown(cells: Sequence[dict[str, Any]]) -> str:
    """What is exact, one row per vLLM version and configuration; then why the rest is not."""
    rows: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in sorted(cells, key=lambda cell: (cell["vllm"], cell["configuration"])):
        name, where = cell["architecture"], (cell["vllm"], cell["configuration"])
        is_exact = cell["verdict"] == "exact"
        rows.setdefault(where, ([], []))[not is_exact].append(name)
        if not is_exact:
            said = cell["verdict"] + (f": {cell['why']}" if cell["why"] else "")
            reasons.setdefault((name, said.replace("|", "\\|")), []).append(" ".join(where))
    lines = ["| vLLM | configuration | exact | not |", "|---|---|---|---|"]
    for where, names in rows.items():
        lines.append("| " + " | ".join((*where, *(", ".join(n) or "none" for n in names))) + " |")
    if reasons:
        lines += ["", "| not exact | where | because |", "|---|---|---|"]
        for (name, said), places in sorted(reasons.items()):
            lines.append(f"| {name} | {', '.join(places)} | {said} |")
    return "\n".join(lines)


def put_into(readme: Path, table: str) -> None:
    """Replace the text between the markers.

    Raises
    ------
    ValueError
        The file has no markers.
    """
    text = readme.read_text()
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not between.search(text):
        raise ValueError(f"{readme} has no {BEGIN!r} … {END!r}")
    readme.write_text(between.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text))
