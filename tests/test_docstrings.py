"""What docstrings list exists: every documented parameter is one, every error has a name."""

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("eldr_service", "clients", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("*.py")
    if not {"node_modules", "build", "target"} & set(path.parts) and "_pb2" not in path.name
)
ENTRY = re.compile(r"(?P<names>\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*)(?: :.*)?")


def listed(docstring):
    """The (section, line) of each entry of a numpydoc docstring."""
    section, lines = "", docstring.splitlines()
    for line, following in pairwise([*lines, ""]):
        if re.fullmatch("---+", following):
            section = line
        elif section in ("Parameters", "Attributes", "Raises") and re.match(r"[^\s-]", line):
            yield section, line


def parameters(node):
    """Names that a function or a class's ``__init__`` takes; None for a dataclass or the like."""
    if isinstance(node, ast.ClassDef):
        made = [each for each in node.body if getattr(each, "name", "") == "__init__"]
        return parameters(made[0]) if made else None
    given = node.args
    each = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in each if argument}


def faults(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for section, line in listed(ast.get_docstring(node) or ""):
            entry = ENTRY.fullmatch(line)
            names = {name.lstrip("*") for name in entry["names"].split(", ")} if entry else {line}
            taken = parameters(node) if section == "Parameters" else None
            if not entry or (taken is not None and not names <= taken):
                yield f"{path.relative_to(ROOT)}: {node.name}, {section}: {line}"


def test_what_is_listed_exists():
    assert len(SOURCES) > 400
    assert not [fault for path in SOURCES for fault in faults(path)]
