"""How long `marginal-cost` takes to decide, beside `locality-band` in the same run.

A model of 48 layers x 128 experts, top-8; workers hold eight requests each, placed by the policy.
*pick* is the policy alone, *route* the whole booking, with the release that makes room again. The
two policies take turns, and each time is the median of rounds.

    python -m benchmarks.speed.policy_time

Prints a table and writes build/bench/policy_time.json.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.written import written
from eldr_service.core.activation import ActivationCounts
from eldr_service.core.booking import Booking
from eldr_service.core.decision import FleetSnapshot, RequestView
from eldr_service.core.ends import Ended
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.worker import WorkerSpec, WorkerState
from eldr_service.fitting import fit_partition
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create
from eldr_service.routing.call import RouteCall
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.sqlite import SqliteStore

GEOMETRY = ModelGeometry(48, 128, 8)
POLICIES = ("locality-band", "marginal-cost")
WORKERS = (24, 256)
HELD, ROUNDS, CALLS = 8, 15, 60


class Silent:
    """An observer that ignores everything."""

    def ended(self, model: str, booking: Booking, how: Ended) -> None: ...
    def signatures_dropped(self, number: int, why: str) -> None: ...
    def worker_changed(self, model: str, row: int, state: WorkerState) -> None: ...


class Caught:
    """Remembers what a policy was last asked."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.asked = policy, policy.pick
        policy.pick = self.pick  # type: ignore[method-assign]
        self.question: tuple[RequestView, FleetSnapshot] | None = None

    def pick(self, request: RequestView, fleet: FleetSnapshot):
        self.question = request, fleet
        return self.asked(request, fleet)


def prefills(n: int) -> list[ActivationCounts]:
    """Requests of 16 kinds with skewed experts, 400 tokens each."""
    rng = np.random.default_rng(3)
    liked = rng.dirichlet(np.full(GEOMETRY.num_experts, 0.3), (16, GEOMETRY.num_layers))
    counts = [
        rng.multinomial(400 * GEOMETRY.top_k, liked[i % 16] * 0.9 + 0.1 / GEOMETRY.num_experts)
        for i in range(n)
    ]
    return [ActivationCounts(GEOMETRY, 0, c.astype(np.uint32), 400) for c in counts]


class Fleet:
    """A router with one policy, its workers filled."""

    def __init__(self, policy: str, workers: int, partition: Partition, calls: list) -> None:
        self.caught = Caught(create(policy, {}))
        self.router = Router(lambda: self.caught.policy, Silent())
        fleet = Workers(self.router, SqliteStore(None), first_incarnation=0)
        for i in range(workers):
            spec = WorkerSpec(f"w{i}", capacity_sequences=64)
            fleet.register("m", spec, WorkerState.READY, GEOMETRY, 0.0, static=True)
        self.router.model("m").activate(partition, {})
        self.calls, self.placed, self.oldest = calls, 0, 0
        for _ in range(HELD * workers):
            self.route()

    def route(self) -> None:
        counts = self.calls[self.placed % len(self.calls)]
        self.router.route(RouteCall("m", str(self.placed), counts=counts), now=0.0)
        self.placed += 1

    def turn(self) -> None:
        """Route one request; release the oldest, with its decode counts."""
        self.route()
        decoded = self.calls[self.oldest % len(self.calls)]
        name = str(self.oldest)
        self.router.release("m", name, 0, 0.0, output_tokens=400, decode_counts=decoded)
        self.oldest += 1

    def pick(self) -> None:
        assert self.caught.question
        self.caught.asked(*self.caught.question)


def timed(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begun) / CALLS * 1e6


def main() -> None:
    calls = prefills(512)
    counts = np.stack([c.counts for c in calls])
    table = Table("WORKERS", "WHAT", *(f"{p}, µs" for p in POLICIES), "RATIO")
    rows = {}
    for workers in WORKERS:
        partition = fit_partition("m", counts, GEOMETRY, n_clusters=min(workers, 64))
        fleets = {policy: Fleet(policy, workers, partition, calls) for policy in POLICIES}
        for what in ("pick", "turn"):
            times: dict[str, list[float]] = {policy: [] for policy in POLICIES}
            for _ in range(ROUNDS):
                for policy, fleet in fleets.items():
                    times[policy].append(timed(getattr(fleet, what)))
            shown = "pick" if what == "pick" else "route and release"
            found = {policy: median(each) for policy, each in times.items()}
            ratio = median(b / a for a, b in zip(*times.values(), strict=True))
            rows[f"{workers} workers, {shown}"] = {**found, "ratio": ratio}
            table.add_row(
                str(workers), shown, *(f"{v:.0f}" for v in found.values()), f"{ratio:.2f}"
            )
    Console().print(table)
    written("policy_time", {"microseconds": rows})


if __name__ == "__main__":
    main()
