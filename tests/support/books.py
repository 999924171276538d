"""The interface of drivers for random lives of a model's books, and what these draw from.

A driver executes operations: on the router itself (`books_in_process`), on a daemon over a socket
(`books_over_socket`), or on one of several replicas, drawn for each operation. It refuses by
raising `Refusing` with the name of the gRPC code, and tells the time.
"""

import zlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.routing.call import RouteCall

MODEL = "books"
GEOMETRY = ModelGeometry(2, 8, 2)
PARTITIONS = 3
LOAD_ONLY = ("round-robin", "random", "join-shortest-queue", "power-of-two-choices")
BY_SIGNATURE = ("locality", "locality-band", "marginal-cost")
WORKERS = ("w0", "w1", "w2", "w3", "w4")
LEASE_SECONDS, SIGNATURE_SECONDS = 900.0, 600.0
ANOTHER_LIFE = 1 << 60


class Refusing(Exception):  # noqa: N818 - not an error: an answer
    """The operation was refused, with this code."""


class Answered(NamedTuple):
    """A Route's answer; a repeat's is the same except `repeated` and `early`."""

    worker: str
    lease_id: str
    reason: str
    policy: str
    partition: int
    repeated: bool
    early: bool


class Sums(NamedTuple):
    """What is booked on a worker; tokens are -1 if the driver cannot see them."""

    state: str
    incarnation: int
    sequences: int
    tokens: int
    load: float


@dataclass(frozen=True)
class Chances:
    """What is drawn for a driver; times in seconds."""

    report_limit: float
    leases: tuple[float | None, ...]
    steps: tuple[float, ...]  # by which time may advance at once
    restart: float  # chance per operation
    time_to_live: tuple[float, ...] = (0.0,)
    margin: float = 0.0  # by which the driver's clock and the server's may differ


class Driver(Protocol):
    """Executes operations."""

    chances: Chances

    def now(self) -> float: ...
    def pass_time(self, seconds: float) -> None: ...
    def route(self, call: RouteCall) -> Answered: ...
    def release(self, request_id: str, attempt: int, lease_id: str) -> str: ...
    def renew(self, leases: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]: ...
    def register(self, spec: WorkerSpec, state: WorkerState) -> int: ...
    def drain(self, worker: str) -> int: ...
    def remove(self, worker: str, incarnation: int) -> int: ...
    def report(self, worker: str, report: LoadReport) -> tuple[bool, list[tuple[str, int]]]: ...
    def signature(self, request_id: str, epoch: int, sequence: int, last: bool,
                  counts: ActivationCounts) -> bool: ...  # fmt: skip
    def set_policy(self, name: str) -> None: ...
    def activate(self, version: int) -> None: ...
    def restart(self) -> None: ...
    def sums(self) -> dict[str, Sums]: ...
    def check(self, living: dict[str, tuple[int, str, str]]) -> None:
        """Check what only this driver sees; living is request -> (attempt, worker, lease)."""


def counts_of(kind: int, seed: int) -> ActivationCounts:
    rng = np.random.default_rng([kind, seed])
    share = np.where(np.arange(8) % 4 == kind, 8.0, 1.0)
    drawn = rng.multinomial(20, share / share.sum(), size=2).astype(np.uint16)
    return ActivationCounts(GEOMETRY, 0, drawn, 10)


COUNTS = [counts_of(kind, seed) for kind in range(4) for seed in range(4)]


def print_of(call: RouteCall) -> int:
    """A fingerprint of the payload, which a repeat must share."""
    fields = [sorted(f) if isinstance(f, frozenset) else f for f in call[4:15]]
    return zlib.crc32(repr((fields, id(call.counts))).encode())
