"""Imports run downward only. The table is the documentation of which package may use which."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients" / "python"

# A package of eldr_service (or a module at its top) -> what else of eldr_service it may import.
MAY_IMPORT = {
    "core": "kernels",
    "kernels": "",
    "address": "",
    "flags": "",
    "policies": "core kernels",
    "recordings": "",
    "fitting": "core kernels recordings",
    "stores": "core kernels",
    "observability": "core kernels",
    "routing": "core kernels policies stores",
    "decision_log": "core kernels policies routing stores",
    "replay": "core kernels policies routing stores decision_log",
    "refits": "core kernels fitting routing stores",
    "simulation": "core kernels recordings fitting policies stores routing",
    "reports": "core kernels recordings fitting policies simulation",
    "rpc": "core kernels policies fitting stores observability routing refits",
    "config": "core address flags",
    "static_fleet": "core routing rpc",
    "server": (
        "core kernels policies fitting stores observability routing refits rpc decision_log config"
        " static_fleet"
    ),
    "cli": (
        "core kernels policies recordings fitting stores observability simulation reports rpc"
        " decision_log replay address flags config"
    ),
}
# The wire's messages, sent or written down, are known to these alone; all else needs no gRPC.
KNOW_THE_WIRE = {"decision_log", "replay", "rpc", "server", "static_fleet", "cli"}
WIRE = ("grpc", "grpc_health", "grpc_reflection", "eldr.v1", "google.rpc", "google.protobuf")


def modules(folder, root=ROOT):
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / folder).rglob("*.py"))
    }


SERVICE = modules("eldr_service")


def imports(path):
    """Names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, package):
    return name == package or name.startswith(package + ".")


def part(module):
    """core of eldr_service.core.fleet."""
    return module.partition(".")[2].partition(".")[0]


def test_every_part_has_its_place_in_the_table():
    assert {part(module) for module in SERVICE} - {""} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("module", [m for m in SERVICE if part(m)])
def test_imports_run_downward(module):
    used = {part(name) for name in imports(SERVICE[module]) if within(name, "eldr_service")}
    assert used - {"", part(module)} <= set(MAY_IMPORT[part(module)].split())


@pytest.mark.parametrize("module", [m for m in SERVICE if part(m) not in KNOW_THE_WIRE])
def test_only_some_know_the_wire(module):
    known = {n for n in imports(SERVICE[module]) if any(within(n, wire) for wire in WIRE)}
    assert not known


def test_no_cycles():
    graph = {
        module: {name for name in imports(path) if name in SERVICE} - {module}
        for module, path in SERVICE.items()
    }
    for module in SERVICE.keys() - {"eldr_service"}:  # the package of its own comes in any case
        graph[module].discard(module.rpartition(".")[0])
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("eldr_service.core.errors") < order.index("eldr_service.server")


def test_the_client_stands_alone():
    for module, path in modules("eldr_client", CLIENT).items():
        assert not [n for n in imports(path) if within(n, "eldr_service")], module
