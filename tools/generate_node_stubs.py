"""Generate clients/node/src/proto from protos/, with the plugin version named here."""

import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc
from protos_digest import record

ROOT = Path(__file__).parents[1]
# The protos that a scheduler needs, and error details; the others are for operators and engines.
PROTOS = ("eldr/v1/activation.proto", "eldr/v1/router.proto", "google/rpc/error_details.proto")
PLUGIN = "ts-proto@2.18.0"
OPTIONS = (
    "esModuleInterop=true",
    "importSuffix=.js",
    "forceLong=bigint",
    "oneof=unions",
    "stringEnums=true",
    "enumsAsLiterals=true",
    "removeEnumPrefix=true",
    "outputJsonMethods=false",
    "useExactTypes=false",
    "outputServices=grpc-js",
)


def main() -> None:
    into = ROOT / "clients/node/src/proto"
    with tempfile.TemporaryDirectory() as folder:
        install = ["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund"]
        subprocess.run([*install, "--loglevel=error", PLUGIN], check=True)
        includes = (
            ROOT / "protos",
            files("grpc_tools") / "_proto",
            Path(status_pb2.__file__).parents[2],
        )
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        plugin = Path(folder, "node_modules/.bin/protoc-gen-ts_proto")
        arguments = ["protoc", *(f"-I{path}" for path in includes)]
        arguments += [f"--plugin=protoc-gen-ts_proto={plugin}", f"--ts_proto_out={into}"]
        arguments += [f"--ts_proto_opt={','.join(OPTIONS)}", *PROTOS]
        if protoc.main(arguments):
            sys.exit("protoc failed")
    record("clients/node/src/proto")


if __name__ == "__main__":
    main()
