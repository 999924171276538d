"""Chooses a prefill worker: consistent hashing of the prompt's prefix, with bounded load.

Equal prefixes go to the same worker, whose KV cache holds them, unless it already has more than
its share in flight; then the next one on the ring takes the request. A worker that joins or leaves
moves only the prefixes next to it. No state is shared: many proxies choose alike.
(Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, 2017.)
"""

import bisect
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

from eldr_vllm.proxy.fleet import Engine

POINTS = 100  # points per worker on the ring; more make the shares more even
SLACK = 1.25  # most load of a worker, relative to the mean


class Ring:
    """The ring of prefill workers, and what each has in flight from this proxy."""

    def __init__(self) -> None:
        self._loads: Counter[str] = Counter()
        self._members: tuple[str, ...] = ()
        self._points: list[tuple[int, str]] = []

    @contextmanager
    def hold(self, key: bytes, engines: Sequence[Engine]) -> Iterator[Engine]:
        """Choose one of `engines` (not empty), and count it as busy during the block."""
        by_id = {engine.worker_id: engine for engine in engines}
        self._place(tuple(sorted(by_id)))
        limit = math.ceil(SLACK * (1 + sum(self._loads[each] for each in by_id)) / len(by_id))
        chosen = next(each for each in self._walk(key) if self._loads[each] < limit)
        self._loads[chosen] += 1
        try:
            yield by_id[chosen]
        finally:
            self._loads[chosen] -= 1

    def _place(self, members: tuple[str, ...]) -> None:
        if members != self._members:
            self._members = members
            self._points = sorted(
                (_hash(f"{member}#{point}".encode()), member)
                for member in members
                for point in range(POINTS)
            )

    def _walk(self, key: bytes) -> Iterator[str]:
        start = bisect.bisect(self._points, (_hash(key), ""))
        for _, member in self._points[start:] + self._points[:start]:
            yield member


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest())
