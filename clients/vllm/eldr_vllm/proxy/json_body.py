"""A request's JSON, sent in pieces; its legs share large values, which are encoded once."""

import json
from collections.abc import AsyncIterator
from typing import Any

LARGE = 1 << 16
"""Bytes from which on a value's encoding is kept."""
PIECE = 1 << 16


class JsonBody:
    """An object's JSON, in fragments that objects with the same values share.

    Parameters
    ----------
    body : dict
    encoded : dict of id to bytes
        The large values encoded so far; the values must live as long as it.
    """

    def __init__(self, body: dict[str, Any], encoded: dict[int, bytes]) -> None:
        self._fragments: list[bytes] = []
        for place, (name, value) in enumerate(body.items()):
            before = f"{', ' if place else '{'}{json.dumps(name)}: "
            if (known := encoded.get(id(value))) is None:
                known = json.dumps(value).encode()
                if len(known) >= LARGE:
                    encoded[id(value)] = known
            self._fragments += [before.encode(), known]
        self._fragments.append(b"}" if body else b"{}")

    def __len__(self) -> int:
        return sum(map(len, self._fragments))

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, small fragments joined; a piece is made when the previous one was sent."""
        small = bytearray()
        for fragment in self._fragments:
            if len(fragment) < LARGE:
                small += fragment
                continue
            yield bytes(small)
            small.clear()
            for start in range(0, len(fragment), PIECE):
                yield fragment[start : start + PIECE]
        yield bytes(small)
