"""How bookings ended, stored as bytes that the garbage collector never scans.

One entry per request, in shards, so that no step scans more than a thousand or two:

    when to forget it, float64 | the last placed attempt, int64, -1 for none | n, uint16
    | n x (attempt, uint32; how it ended, uint8) | the last attempt's worker, UTF-8
"""

import math
import struct
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

REMEMBER_SECONDS = 600.0
MOST_REMEMBERED = 1_000_000
MOST_ATTEMPTS = 32
"""Per request: the lowest attempts are dropped first, as they are superseded anyway."""
_SHARDS = 1_024
_WORK = 1_000
"""Entries that a call of `forget` scans, about: a millisecond."""
_HEAD = struct.Struct("<dqH")
_ATTEMPT = struct.Struct("<IB")


class Ended(Enum):
    """How a booking ended."""

    RELEASED = "released"
    EXPIRED = "its lease expired"
    SUPERSEDED = "superseded by a higher attempt"
    REPORTED_GONE = "its worker no longer reports it"
    WORKER_GONE = "its worker is gone"
    RELEASED_EARLY = "released before it was routed"
    UNANSWERED = "its caller was gone before the answer"
    WITHDRAWN = "the other replicas do not have it"
    DRAINED = "the deadline of its worker's drain was there"

    @property
    def final(self) -> bool:
        """Whether the same attempt cannot be placed again."""
        return self in (Ended.RELEASED, Ended.RELEASED_EARLY, Ended.SUPERSEDED)


_HOW = tuple(Ended)
_CODE = {how: code for code, how in enumerate(_HOW)}


class Past(NamedTuple):
    """What is remembered about one request.

    Attributes
    ----------
    attempts : mapping of attempt to Ended
    last : (attempt, worker_id), or None
        The latest attempt that was placed.
    """

    attempts: Mapping[int, Ended]
    last: tuple[int, str] | None = None


class Ends:
    """How the attempts of each request ended, for ten minutes after its last end."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._shards: list[dict[str, bytes]] = [{} for _ in range(_SHARDS)]
        self._most_per_shard = max(1, most // _SHARDS)
        self._requests = 0
        self._next = 0
        self._none_due_until = math.inf

    def __len__(self) -> int:
        """Requests about which something is remembered."""
        return self._requests

    def of(self, request_id: str) -> Past | None:
        """What is remembered about a request."""
        packed = self._shard(request_id).get(request_id)
        return _unpacked(packed) if packed else None

    def add(
        self, request_id: str, attempt: int, how: Ended, now: float, worker_id: str = ""
    ) -> None:
        """Remember how an attempt ended, and its worker if it was placed."""
        shard = self._shard(request_id)
        before = shard.pop(request_id, None)  # moved to the end: shards are in order of time
        forget_at = now + REMEMBER_SECONDS
        self._none_due_until = min(self._none_due_until, forget_at)
        if before is None:
            self._requests += 1
            last = (attempt, worker_id) if worker_id else None
            shard[request_id] = _packed(forget_at, Past({attempt: how}, last))
            if len(shard) > self._most_per_shard:
                self._drop_oldest(shard)
            return
        past = _unpacked(before)
        attempts = {**past.attempts, attempt: how}
        if len(attempts) > MOST_ATTEMPTS:
            del attempts[min(attempts)]
        last = (attempt, worker_id) if worker_id else past.last
        shard[request_id] = _packed(forget_at, Past(attempts, last))

    def forget(self, now: float) -> None:
        """Drop ends that are too old; only some of a large table, so call it again."""
        if now < self._none_due_until:
            return
        done = 0
        for _ in range(_SHARDS):
            done += self._sweep(self._next, now)
            self._next = (self._next + 1) % _SHARDS
            if done >= _WORK:
                return
        oldest = (next(iter(shard.values())) for shard in self._shards if shard)
        self._none_due_until = min(map(_forget_at, oldest), default=math.inf)

    def parts(self) -> Iterator[list[tuple[str, int, Ended, str, float]]]:
        """Request, attempt, how it ended, its worker if known, until when; one shard at a time."""
        for shard in self._shards:
            part = []
            for request_id, packed in shard.items():
                past, until = _unpacked(packed), _forget_at(packed)
                last, worker = past.last or (-1, "")
                for attempt, how in past.attempts.items():
                    part.append((request_id, attempt, how, worker * (attempt == last), until))
            yield part

    def _shard(self, request_id: str) -> dict[str, bytes]:
        return self._shards[hash(request_id) % _SHARDS]

    def _sweep(self, number: int, now: float) -> int:
        """Drop what is due in a shard; return the work done, in entries."""
        shard = self._shards[number]
        if not shard:
            return 0
        if _forget_at(next(iter(shard.values()))) > now:
            return 5  # for the cache misses
        kept = {key: packed for key, packed in shard.items() if _forget_at(packed) > now}
        self._requests -= len(shard) - len(kept)
        self._shards[number] = kept
        return len(shard)

    def _drop_oldest(self, shard: dict[str, bytes]) -> None:
        """Make room for an eighth more, so that this is rarely needed."""
        oldest = list(shard)[: max(1, len(shard) // 8)]
        for key in oldest:
            del shard[key]
        self._requests -= len(oldest)


def _forget_at(packed: bytes) -> float:
    at: float = _HEAD.unpack_from(packed)[0]
    return at


def _packed(forget_at: float, past: Past) -> bytes:
    attempt, worker = past.last or (-1, "")
    head = _HEAD.pack(forget_at, attempt, len(past.attempts))
    ends = b"".join(_ATTEMPT.pack(tried, _CODE[how]) for tried, how in past.attempts.items())
    return head + ends + worker.encode()


def _unpacked(packed: bytes) -> Past:
    _, last, n = _HEAD.unpack_from(packed)
    after = _HEAD.size + n * _ATTEMPT.size
    attempts = {a: _HOW[code] for a, code in _ATTEMPT.iter_unpack(packed[_HEAD.size : after])}
    return Past(attempts, (last, packed[after:].decode()) if last >= 0 else None)
