"""Which prompts the same engine should prefill: those that begin alike.

A prompt is cut into pieces, and its key is a path through the tree of recently seen pieces: the
first piece, or rather the one after the last fork, as long as more requests take that path than one
engine can serve. Such a path is a system prompt that all share: each engine will hold it anyway,
and what follows decides. A long document that several questions are about is not, nor is a long
conversation. No state is shared: proxies that see similar traffic choose alike.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from eldr_vllm.proxy.legs import Leg

WINDOW = 1024  # requests after which earlier ones count half
FAN_OUT = 8  # with more branches than this, they are taken for different prompts


@dataclass(slots=True)
class _Node:
    requests: int = 0
    next: set[bytes] = field(default_factory=set)  # at most FAN_OUT + 1


class Affinity:
    """The recently seen pieces; `length` is that of a piece, in characters."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._nodes: dict[bytes, _Node] = {}
        self._requests: Counter[str] = Counter()  # by model, as each has its own engines

    def key(self, leg: Leg, engines: int) -> bytes:
        """The key that chooses a prefill engine, of `engines` engines."""
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
            # One step further per request, so that a request adds at most one node.
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
        """Each message begins a piece, so that a conversation's earlier pieces stay the same."""
        for name in leg.endpoint.prompt:
            said = leg.body.get(name)
            is_ids = isinstance(said, list) and said and isinstance(said[0], int)
            for text in said if isinstance(said, list) and not is_ids else [said]:
                yield from self._cut(text)

    def _cut(self, said: Any) -> Iterator[str]:
        if said is None:
            return
        # A token is about four characters.
        length = max(self._length // 4, 1) if isinstance(said, list) else self._length
        if not isinstance(said, str | list):
            said = json.dumps(said)
        for start in range(0, len(said), length):
            yield str(said[start : start + length])


def _hash(before: bytes, piece: str) -> bytes:
    return blake2b(before + piece.encode(errors="replace"), digest_size=16).digest()
