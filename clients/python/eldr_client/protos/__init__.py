"""The contract as files: `python -m eldr_client.protos` prints the folder to compile it from.

Beside `eldr/v1` it has what that imports and what errors carry, `google/rpc`; the other imports,
`google/protobuf`, come with every protoc. In a checkout `eldr` is a link to the project's `protos`.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
