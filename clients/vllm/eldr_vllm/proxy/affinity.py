"""Which prompts should be prefilled by the same engine: those that go on alike.

A prompt is cut into pieces, and its key is the way to one of them through the tree of the pieces
seen lately: the first one, or rather the one behind the last parting of the ways, as long as more
requests come that way than one engine can serve. Such a way is a system prompt that all share: each
engine will hold it anyway, and what follows decides. A long document that some questions are asked
about is none, nor is a long conversation. No state is shared: proxies that see alike traffic choose
alike.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from eldr_vllm.proxy.legs import Leg

WINDOW = 1024  # requests, after which what was seen counts half
FAN_OUT = 8  # where so many ways part, and one more, they are taken for different prompts


@dataclass(slots=True)
class _Node:
    requests: int = 0
    next: set[bytes] = field(default_factory=set)  # FAN_OUT + 1 of them at most


class Affinity:
    """The pieces seen lately; `length` is that of a piece, in characters."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._nodes: dict[bytes, _Node] = {}
        self._requests: Counter[str] = Counter()  # by model, as each has engines of its own

    def key(self, leg: Leg, engines: int) -> bytes:
        """What the prefill engine is chosen by, among so many."""
        self._count(leg.model)
        pieces = self._pieces(leg)
        salt = leg.body.get("cache_salt")
        root = _hash(b"", f"{leg.model}\0{salt if isinstance(salt, str) else ''}")
        key = way = _hash(root, next(pieces, ""))
        while True:
            is_new = way not in self._nodes
            node = self._nodes.setdefault(way, _Node())
            node.requests += 1
            if (piece := next(pieces, None)) is None:
                return key
            way = _hash(way, piece)
            if len(node.next) <= FAN_OUT:
                node.next.add(way)
            # One step further with each request, so that a request leaves one node at most.
            if is_new or node.requests * engines <= self._requests[leg.model]:
                return key
            if len(node.next) > FAN_OUT:
                key = way

    def _count(self, model: str) -> None:
        self._requests[model] += 1
        if self._requests.total() >= 2 * WINDOW:
            self._requests = +Counter({name: n // 2 for name, n in self._requests.items()})
            for node in self._nodes.values():
                node.requests //= 2
            self._nodes = {key: node for key, node in self._nodes.items() if node.requests}

    def _pieces(self, leg: Leg) -> Iterator[str]:
        """A message begins a piece of its own, so that a conversation's pieces stay as they are."""
        for name in leg.endpoint.prompt:
            said = leg.body.get(name)
            is_ids = isinstance(said, list) and said and isinstance(said[0], int)
            for text in said if isinstance(said, list) and not is_ids else [said]:
                yield from self._cut(text)

    def _cut(self, said: Any) -> Iterator[str]:
        if said is None:
            return
        # A token stands for some four characters.
        length = max(self._length // 4, 1) if isinstance(said, list) else self._length
        if not isinstance(said, str | list):
            said = json.dumps(said)
        for start in range(0, len(said), length):
            yield str(said[start : start + length])


def _hash(before: bytes, piece: str) -> bytes:
    return blake2b(before + piece.encode(errors="replace"), digest_size=16).digest()
