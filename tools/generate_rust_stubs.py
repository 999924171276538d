"""Generate clients/rust/src/proto from protos/: descriptors by protoc, Rust by tonic."""

import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2
from grpc_tools import protoc
from protos_digest import record

ROOT = Path(__file__).parents[1]
RUST = ROOT / "clients/rust"
# The protos that a scheduler needs; the others are for operators.
PROTOS = ("eldr/v1/fleet.proto", "eldr/v1/router.proto", "google/rpc/error_details.proto")


def main() -> None:
    includes = (
        ROOT / "protos",
        files("grpc_tools") / "_proto",
        Path(status_pb2.__file__).parents[2],
    )
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder, "descriptors")
        arguments = ["protoc", *(f"-I{path}" for path in includes)]
        arguments += ["--include_imports", "--include_source_info"]
        if protoc.main([*arguments, f"--descriptor_set_out={descriptors}", *PROTOS]):
            sys.exit("protoc failed")
        found = FileDescriptorSet.FromString(descriptors.read_bytes())
        health_pb2.DESCRIPTOR.CopyToProto(found.file.add())  # which replicas drain
        descriptors.write_bytes(found.SerializeToString())
        command = ["cargo", "run", "--quiet", "--locked"]
        command += ["--manifest-path", str(RUST / "stubs/Cargo.toml")]
        command += ["--", str(descriptors), str(RUST / "src/proto")]
        built = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "build/clients/rust-stubs")}
        subprocess.run(command, check=True, env=built)
    record("clients/rust/src/proto")


if __name__ == "__main__":
    main()
