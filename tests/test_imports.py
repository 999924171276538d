"""Imports run downward only. The tables are the documentation of which room may use which."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients" / "python"

# The picture: a room of eldr_service -> what else of eldr_service it imports.
MAY_IMPORT = {
    "cli": "server lab decision_log policies fitting stores core kernels",
    "server": "refits decision_log routing policies fitting stores core kernels",
    "lab": "decision_log routing policies fitting stores core kernels",
    "refits": "routing fitting stores core",
    "decision_log": "routing policies stores core",
    "routing": "policies stores core kernels",
    "policies": "core kernels",
    "fitting": "core kernels",
    "stores": "core",
    "core": "kernels",
    "kernels": "",
}
# The rooms that have parts: a part -> what it may import, of the rooms and of its own.
PARTS_MAY_IMPORT = {
    "server.program": (
        "stores core server.config server.credentials server.daemon server.discovery"
        " server.observability server.rpc"
    ),
    "server.daemon": (
        "refits decision_log routing policies fitting stores core kernels"
        " server.comparison server.config server.credentials server.descriptors server.discovery"
        " server.durability server.learning server.observability server.page server.replicas"
        " server.rpc"
    ),
    "server.comparison": "routing policies core kernels",
    "server.page": "refits routing policies core kernels server.comparison server.rpc",
    "server.credentials": "core server.config server.rpc",
    "server.descriptors": "",
    "server.durability": "routing stores core",
    "server.learning": "routing stores core",
    "server.discovery": (
        "routing stores core server.address server.config server.origins server.rpc"
    ),
    "server.rpc": (
        "refits routing policies fitting stores core kernels server.comparison server.durability"
        " server.observability server.replicas"
    ),
    "server.replicas": "refits routing stores core",
    "server.observability": "core kernels",
    "server.config": "stores core server.address server.flags server.options server.values",
    "server.options": "stores core server.address server.origins server.values",
    "server.values": "stores core server.address server.origins",
    "server.origins": "core",
    "server.address": "",
    "server.flags": "core",
    "lab.replay": "decision_log routing policies stores core",
    "lab.reports": "policies lab.recordings lab.simulation",
    "lab.simulation": "routing policies fitting stores core kernels lab.recordings",
    "lab.recordings": "core",
    "kernels.policies": "kernels.core kernels.compiling kernels.integer_products",
    "kernels.fitting": "kernels.compiling kernels.threads",
    "kernels.core": "kernels.compiling kernels.integer_products",
    "kernels.compiling": "kernels.cache",
    "kernels.cache": "",
    "kernels.integer_products": "kernels.compiling",
    "kernels.threads": "",
}
EVIDENCE = {"cli", "lab"}  # the rooms that may know recordings, simulations, replays and reports
# The wire's messages, sent or written down, are known to these alone; all else needs no gRPC.
KNOW_THE_WIRE = {
    *("cli", "decision_log", "lab.replay"),
    *("server.daemon", "server.discovery", "server.rpc"),
}
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


def room(module):
    """core of eldr_service.core.fleet."""
    return module.partition(".")[2].partition(".")[0]


def part(module):
    """server.rpc of eldr_service.server.rpc.errors; the room where it has no parts."""
    two = ".".join(module.split(".")[1:3])
    return two if two in PARTS_MAY_IMPORT else room(module)


def used_by(module):
    """The modules of eldr_service that one imports; of a name in a package, the package."""
    return {name for name in imports(SERVICE[module]) if name in SERVICE} - {module}


ROOMS = sorted({room(module) for module in SERVICE} - {""})
PARTS = sorted({part(module) for module in SERVICE if part(module) in PARTS_MAY_IMPORT})


def test_every_room_and_every_part_has_its_place_in_the_tables():
    assert set(ROOMS) == MAY_IMPORT.keys()
    assert set(PARTS) == PARTS_MAY_IMPORT.keys()
    for whole in {"server", "lab", "kernels"}:
        alone = {m for m in SERVICE if room(m) == whole and part(m) == whole}
        assert alone == {f"eldr_service.{whole}"}  # all but the package itself is in a part


@pytest.mark.parametrize("name", ROOMS)
def test_the_picture_is_that_of_the_imports(name):
    used = {room(other) for m in SERVICE if room(m) == name for other in used_by(m)}
    assert used - {"", name} == set(MAY_IMPORT[name].split())


@pytest.mark.parametrize("module", [m for m in SERVICE if part(m) in PARTS_MAY_IMPORT])
def test_imports_run_downward_between_parts(module):
    allowed = set(PARTS_MAY_IMPORT[part(module)].split())
    used = {part(name) for name in used_by(module)} - {"", part(module)}
    assert {name for name in used if not {name, name.partition(".")[0]} & allowed} == set()


@pytest.mark.parametrize("name", [name for name in ROOMS if name not in EVIDENCE])
def test_nothing_that_serves_imports_evidence(name):
    reached, left = set(), {m for m in SERVICE if room(m) == name}
    while left:
        reached |= left
        left = {other for module in left for other in used_by(module)} - reached
    assert not [module for module in reached if room(module) in EVIDENCE]


@pytest.mark.parametrize("module", [m for m in SERVICE if part(m) not in KNOW_THE_WIRE])
def test_only_some_know_the_wire(module):
    known = {n for n in imports(SERVICE[module]) if any(within(n, wire) for wire in WIRE)}
    assert not known


def test_no_cycles():
    graph = {module: used_by(module) for module in SERVICE}
    for module in SERVICE.keys() - {"eldr_service"}:  # the package of its own comes in any case
        graph[module].discard(module.rpartition(".")[0])
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("eldr_service.core.errors") < order.index("eldr_service.server")


def test_the_client_stands_alone():
    for module, path in modules("eldr_client", CLIENT).items():
        assert not [n for n in imports(path) if within(n, "eldr_service")], module


HELPERS = {
    path.stem: path
    for folder in ("support", "vllm")
    for path in (ROOT / "tests" / folder).glob("*.py")
}
USERS = [path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]


def defined_in(path):
    """Names that a module has at its top level, imported ones included."""
    for node in ast.parse(path.read_text("utf-8")).body:
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield inner.name
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id
            elif isinstance(inner, ast.alias):
                yield inner.asname or inner.name


def test_what_is_imported_from_tests_support_is_there():
    """Inside functions too: some of them run only on real engines."""
    defined = {name: set(defined_in(path)) for name, path in HELPERS.items()}
    missing = [
        f"{path.relative_to(ROOT)}: {node.module}.{alias.name}"
        for path in USERS
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in HELPERS
        for alias in node.names
        if alias.name not in defined[node.module]
    ]
    assert not missing
