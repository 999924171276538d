"""What experts earlier requests used, to predict a request's before its prefill.

A request is identified by its conversation, the prefixes of its prompt, and its tenant. For each
such key the memory has the counts of a typical request, scaled to 65,535 tokens: the mean over
prompts and answers with that key, weighted by their tokens, with the latest counting most. A
conversation's last turn says most about the next, whose prompt repeats it; a tenant is a mean over
many requests.

Prefixes are learned at 1, 2, 4, 8, … blocks and in full, so that a long prompt takes a dozen
entries.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.geometry import ModelGeometry
from eldr_service.kernels import moved_towards


class SignatureSource(IntEnum):
    """Where a decision's signature came from; names and numbers are the contract's."""

    UNSPECIFIED = 0
    CALLER = 1
    REGISTERED = 2
    SESSION = 3
    PREFIX = 4
    TENANT = 5

    @property
    def is_predicted(self) -> bool:
        """Whether it is from other requests, not the request's own."""
        return self >= SignatureSource.SESSION


TOKENS = 65_535
"""Tokens to which counts are scaled: the most that 16 bits hold for one expert."""
LASTS = {SignatureSource.SESSION: 0.5, SignatureSource.PREFIX: 0.9, SignatureSource.TENANT: 0.98}
"""The weight of earlier requests after another one."""
_ENTRY_BYTES = 500  # approximate cost of an entry beside its counts; names are no longer

Name = str | int | tuple[str, str]
"""A tenant, a prefix's hash, or a tenant and its conversation."""
Key = tuple[SignatureSource, Name]


def keys_of(session: str, prefix_hashes: Sequence[int], tenant: str) -> tuple[Key, ...]:
    """The keys of a request; a conversation belongs to its tenant."""
    depths = {1 << power for power in range(len(prefix_hashes).bit_length())}
    depths.add(len(prefix_hashes))
    prefixes = [prefix_hashes[depth - 1] for depth in sorted(depths) if prefix_hashes]
    return (
        *([(SignatureSource.SESSION, (tenant, session))] if session else []),
        *((SignatureSource.PREFIX, prefix) for prefix in prefixes),
        *([(SignatureSource.TENANT, tenant)] if tenant else []),
    )


@dataclass(slots=True)
class _Remembered:
    counts: NDArray[np.uint16]  # never written to: may be shared
    tokens: float


class SignatureMemory:
    """Remembers one model's signatures for one geometry; another one empties it.

    Conversations, prefixes and tenants have a third of the memory each, so that many of one kind do
    not displace another; within each kind the least recently used are dropped first.

    Parameters
    ----------
    max_bytes : int
        If too little for one signature of each kind, nothing is remembered.
    """

    def __init__(self, max_bytes: int = 96 << 20) -> None:
        self._bytes_of_kind = max_bytes // len(LASTS)
        self._kinds: dict[SignatureSource, OrderedDict[Name, _Remembered]] = {
            kind: OrderedDict() for kind in LASTS
        }
        self._geometry: ModelGeometry | None = None
        self._most = 0

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    @property
    def nbytes(self) -> int:
        """Most memory in use: shared counts are counted each time."""
        return len(self) * _bytes_of(self._geometry) if self._geometry else 0

    def predict(
        self, geometry: ModelGeometry, session: str, prefix_hashes: Sequence[int], tenant: str
    ) -> tuple[SignatureSource, NDArray[np.uint16]] | None:
        """Predict a request: by its conversation, else its longest known prefix, else its tenant.

        Returns
        -------
        source : SignatureSource
        counts : ndarray of uint16, shape [num_layers, num_experts]
            Each row sums to 65,535 x top_k; do not write to it.
        """
        if geometry != self._geometry:
            return None
        names: tuple[Iterable[Name], ...] = (
            [(tenant, session)] if session else (),
            reversed(prefix_hashes),
            [tenant] if tenant else (),
        )
        for (source, kind), of_kind in zip(self._kinds.items(), names, strict=True):
            for name in of_kind:
                if found := kind.get(name):
                    kind.move_to_end(name)
                    return source, found.counts
        return None

    def learn(
        self, keys: Sequence[Key], counts: Counts, geometry: ModelGeometry, more: bool = False
    ) -> None:
        """Learn what a request used.

        Parameters
        ----------
        keys : sequence of Key
            From `keys_of`.
        counts : ndarray of uint16 or uint32, shape [num_layers, num_experts]
            Nothing is learned if a layer has no counts.
        geometry : ModelGeometry
        more : bool
            Whether it is the answer of a request whose prompt was learned.
        """
        if geometry != self._geometry:
            for kind in self._kinds.values():
                kind.clear()
            self._geometry = geometry
            self._most = self._bytes_of_kind // _bytes_of(geometry)
        picks = counts.sum(axis=1, dtype=np.int64)
        if not self._most or not picks.all():
            return
        tokens, total = float(picks.mean()) / geometry.top_k, TOKENS * geometry.top_k
        alone: NDArray[np.uint16] | None = None
        for source, name in keys:
            kind = self._kinds[source]
            before = kind.get(name)
            if before is None:
                if alone is None:
                    nothing = np.zeros(counts.shape, np.uint16)
                    alone = moved_towards(nothing, counts, 1.0, total)
                kind[name] = _Remembered(alone, tokens)
                if len(kind) > self._most:
                    kind.popitem(last=False)
                continue
            kind.move_to_end(name)
            lasting = before.tokens * (1.0 if more else LASTS[source])
            before.tokens = lasting + tokens
            before.counts = moved_towards(before.counts, counts, tokens / before.tokens, total)


def _bytes_of(geometry: ModelGeometry) -> int:
    return _ENTRY_BYTES + 2 * geometry.size
