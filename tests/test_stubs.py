"""The generated code: fresh, commented, and at home under every protobuf runtime that it claims."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from runtime import runtime

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients/python"

ROUND_TRIP = """
import importlib, pathlib, sys
import google.protobuf
client = pathlib.Path(sys.argv[1])
for path in sorted((client / "eldr/v1").glob("*_pb2*.py")):
    importlib.import_module(f"eldr.v1.{path.stem}")
from eldr.v1 import activation_pb2, router_pb2, router_pb2_grpc
from google.rpc import status_pb2
import eldr_client, grpc
sent = router_pb2.StreamSignaturesResponse(
    model="m", request_id="r", placement=router_pb2.Placement(worker_id="w", similarity=0.5))
assert router_pb2.StreamSignaturesResponse.FromString(sent.SerializeToString()) == sent
counts = activation_pb2.ActivationCounts(num_tokens=2**32 - 1, dense_u16=bytes(8))
request = router_pb2.RouteRequest(counts=counts, worker_selector={"k": "v"}, dry_run=True)
assert router_pb2.RouteRequest.FromString(request.SerializeToString()) == request
sent.status.CopyFrom(status_pb2.Status(code=3))
assert sent.WhichOneof("result") == "status"
router_pb2_grpc.RouterServiceStub(grpc.insecure_channel("127.0.0.1:1"))
print(google.protobuf.__version__)
"""


@pytest.mark.parametrize(("protobuf", "major"), [(">=6.31.1,<7", "6"), (">=7,<8", "7")])
def test_both_runtimes(protobuf, major):
    packages = runtime(
        f"protobuf{protobuf}", "grpcio>=1.74", "googleapis-common-protos>=1.66", "numpy>=1.26"
    )
    search = os.pathsep.join(map(str, (packages, CLIENT)))
    # Without the environment's own packages, whose protobuf is of one major only.
    found = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", ROUND_TRIP, str(CLIENT)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not found.returncode, found.stderr
    assert found.stdout.split(".")[0] == major


def test_the_stubs_are_those_of_the_protos():
    check = [sys.executable, str(ROOT / "tools/generate_stubs.py"), "--check"]
    found = subprocess.run(check, capture_output=True, text=True, check=False)
    assert not found.returncode, found.stderr
    described = descriptor_pb2.FileDescriptorSet.FromString(
        (ROOT / "build/eldr.binpb").read_bytes()
    )
    ours = [file for file in described.file if file.package == "eldr.v1"]
    assert len(ours) == len(list((ROOT / "protos/eldr/v1").glob("*.proto")))
    assert not [name for file in ours for name in uncommented(file)]


def test_stubs_of_other_protos_are_named(tmp_path):
    for folder in ("protos", "tools", "clients"):
        ignored = shutil.ignore_patterns("node_modules", "target", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    with (tmp_path / "protos/eldr/v1/router.proto").open("a") as proto:
        proto.write("// A word more.\n")
    check = [sys.executable, str(tmp_path / "tools/generate_stubs.py"), "--check"]
    found = subprocess.run(check, capture_output=True, text=True, check=False)
    assert "clients/go/eldrpb, clients/node/src/proto, clients/rust/src/proto" in found.stderr


def uncommented(file: descriptor_pb2.FileDescriptorProto):
    """Names of services, methods, messages, fields, enums and values without a leading comment."""
    said = {
        tuple(place.path): place.leading_comments.strip()
        for place in file.source_code_info.location
    }

    def look(path, declared):
        if not said.get(path):
            yield f"{file.name}: {declared.name}"
        for field in declared.DESCRIPTOR.fields:
            # A map's entry is made by the compiler.
            if field.name in ("field", "method", "value", "nested_type", "enum_type"):
                for place, inner in enumerate(getattr(declared, field.name)):
                    entry = field.name == "nested_type" and inner.options.map_entry
                    if not entry:
                        yield from look((*path, field.number, place), inner)

    for name in ("message_type", "enum_type", "service"):
        number = file.DESCRIPTOR.fields_by_name[name].number
        for place, declared in enumerate(getattr(file, name)):
            yield from look((number, place), declared)
