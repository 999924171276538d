"""Wide named tuples are built with keywords, as wide dataclasses are by `kw_only`.

By position one value passes for another: a coverage was once taken for a top_k.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENTS = (
    "clients/python/eldr_client",
    *(f"clients/{name}" for name in ("vllm", "ray", "sglang", "dynamo")),
)
FOLDERS = ("eldr_service", *CLIENTS, "benchmarks", "tests")
WIDE = 6
UNNAMED = 3  # so many values may stand without a name


def wide_tuples(trees):
    """The classes with so many fields, by name."""
    return {
        node.name: node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any("NamedTuple" in ast.unparse(base) for base in node.bases)
        and sum(isinstance(line, ast.AnnAssign) for line in node.body) >= WIDE
    }


def by_position(trees):
    """`file:line` of each call that leaves too many values unnamed."""
    wide = wide_tuples(trees)
    inside = {id(call) for node in wide.values() for call in ast.walk(node)}
    for path, tree in trees.items():
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", None) or getattr(call.func, "id", "")
            starred = any(isinstance(value, ast.Starred) for value in call.args)
            if (name in wide or (name == "cls" and id(call) in inside)) and (
                starred or len(call.args) > UNNAMED
            ):
                yield f"{path}:{call.lineno}"


def test_wide_tuples_are_built_with_keywords():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}
    assert {"RouteCall", "RequestView", "FleetSnapshot"} <= wide_tuples(trees).keys()
    assert not list(by_position(trees))


def test_finds_a_tuple_built_by_position():
    code = """
class View(NamedTuple):
    a: int
    b: int
    c: int
    d: int
    e: int
    f: int

    @classmethod
    def of(cls, *values):
        return cls(*values)

View(1, 2, 3, d=4, e=5, f=6)
module.View(1, 2, 3, 4, e=5, f=6)
"""
    assert set(by_position({"file": ast.parse(code)})) == {"file:12", "file:15"}
