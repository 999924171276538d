"""Generate clients/go/eldrpb from protos/, with the plugin versions named here."""

import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc
from protos_digest import record

ROOT = Path(__file__).parents[1]
MODULE = "eldr.internal/client"
# The protos that a scheduler needs; the others are for operators.
PROTOS = ("activation", "fleet", "router")
PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.6",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
)


def main() -> None:
    into = ROOT / "clients/go"
    with tempfile.TemporaryDirectory() as folder:
        for plugin in PLUGINS:
            subprocess.run(
                ["go", "install", plugin], env={**os.environ, "GOBIN": folder}, check=True
            )
        os.environ["PATH"] = folder + os.pathsep + os.environ["PATH"]
        includes = (
            ROOT / "protos",
            files("grpc_tools") / "_proto",
            Path(status_pb2.__file__).parents[2],
        )
        options = [f"module={MODULE}"]
        options += [f"Meldr/v1/{name}.proto={MODULE}/eldrpb;eldrpb" for name in PROTOS]
        arguments = ["protoc", *(f"-I{path}" for path in includes)]
        for kind in ("go", "go-grpc"):
            arguments += [f"--{kind}_out={into}", *(f"--{kind}_opt={each}" for each in options)]
        if protoc.main([*arguments, *(f"eldr/v1/{name}.proto" for name in PROTOS)]):
            sys.exit("protoc failed")
    record("clients/go/eldrpb")


if __name__ == "__main__":
    main()
