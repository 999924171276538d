"""Token ids in the forms that Dynamo's request plane carries them in."""

import array
import sys
from collections.abc import Mapping
from typing import Any

_INT32 = "i"
_PACKED = (bytes, bytearray, memoryview)  # little-endian int32, under DYN_TOKEN_IDS_AS_BYTES


def num_tokens(ids: Any) -> int:
    """How many ids these are."""
    if isinstance(ids, _PACKED):
        return memoryview(ids).nbytes // 4
    return 0 if ids is None else len(ids)


def with_listed_tokens(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with its ids as a list, which every codec between workers keeps."""
    ids = request.get("token_ids")
    if not isinstance(ids, _PACKED):
        return dict(request)
    listed = array.array(_INT32, bytes(ids))
    if sys.byteorder != "little":
        listed.byteswap()
    return {**request, "token_ids": listed.tolist()}
