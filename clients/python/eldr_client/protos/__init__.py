"""The contract as files: `python -m eldr_client.protos` prints the folder to compile from.

Beside `eldr/v1` it contains `google/rpc`, which the contract and its errors need; the other
imports, `google/protobuf`, come with every protoc. In a checkout, `eldr` links to `protos`.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
