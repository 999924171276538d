"""Executes the operations of `books` on the router itself, with SQLite and a clock of its own.

A restart rebuilds everything from the store. It runs thousands of operations per second.
"""

import asyncio
import math
import time
from pathlib import Path

import numpy as np
from books import COUNTS, GEOMETRY, MODEL, PARTITIONS, Answered, Chances, Refusing, Sums, print_of
from recording import Told

from eldr_service.core.errors import EldrError
from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform
from eldr_service.kernels import add_use
from eldr_service.policies.registry import create
from eldr_service.policies.state import inside, unpack_texts
from eldr_service.routing.chosen import Chosen
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.records import Records
from eldr_service.routing.router import Limits, Router
from eldr_service.routing.standing import StandingLimits
from eldr_service.routing.workers import Workers
from eldr_service.server.durability import Durability
from eldr_service.server.rpc.errors import status_code
from eldr_service.stores.bookings import BookingStore
from eldr_service.stores.sqlite import SqliteStore


def answering(method):
    def answer(*what, **more):
        try:
            return method(*what, **more)
        except EldrError as error:
            raise Refusing(status_code(error).name) from error

    return answer


# Suspects, flapping workers and slow ones have their own tests.
ALL_ALIKE = StandingLimits(suspect_after=math.inf, hold_down=0.0, relief=1.0)


class InProcess:
    chances = Chances(
        report_limit=5.0,
        leases=(2.0, 2.0, 4.0, 10.0, 40.0, 1_000.0, None),
        steps=(0.5, 0.5, 1.0, 1.0, 1.5, 1.5, 2.5, 4.0, 15.0, 100.0, 700.0),
        restart=0.0005,
        time_to_live=(0.0, 0.0, 20.0),
    )

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        # The store forgets by its own clock, so ours is never behind it.
        self._now = time.monotonic()
        self._runs = 0
        self._begin()
        for slots in range(1, PARTITIONS + 1):
            centroids = np.stack([c.counts.ravel() for c in COUNTS[:: len(COUNTS) // 4][:slots]])
            centroids = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
            transform = SignatureTransform(GEOMETRY)
            self.partitions.add(Partition(MODEL, transform, centroids.astype(np.float32)))

    def _begin(self) -> None:
        self._runs += 1
        self.store = SqliteStore(self._folder)
        self._durability = Durability(BookingStore(self.store), lambda is_safe: None)
        limits = Limits(report_limit=self.chances.report_limit, standing=ALL_ALIKE)
        make = lambda: create("locality-band", {})  # noqa: E731
        self.router = Router(make, Told(), limits, f"run{self._runs}", self._durability)
        self.workers = Workers(self.router, self.store, int(self._now * 1e3))
        records = Records(self.store)
        self.partitions = Partitions(self.router, self.workers, records)
        self._chosen = Chosen(self.router, self.workers, self.partitions, records)
        self._chosen.restore(self._now)
        self._loop.run_until_complete(self._start())

    async def _start(self) -> None:
        self._durability.start(self.router, self.workers, self._now)

    def close(self) -> None:
        self._loop.run_until_complete(self._durability.close())
        self.store.close()
        self._loop.close()

    def restart(self) -> None:
        self._loop.run_until_complete(self._durability.close())
        self.store.close()
        self._begin()
        self.pass_time(0.0)  # a group's ends are kept until the last of them is due

    def now(self) -> float:
        return self._now

    def pass_time(self, seconds: float) -> None:
        self._now += seconds
        self.workers.remove_silent(self.router.tick(self._now), self._now)
        for _ in range(4):  # each forgets some of the ends
            self.router.model(MODEL).bookings.forget(self._now)

    @answering
    def route(self, call) -> Answered:
        placed = self.router.route(call._replace(fingerprint=print_of(call)), self._now)
        b = placed.booking
        return Answered(
            b.worker_id,
            b.lease_id,
            reason=b.reason.name,
            policy=b.policy,
            partition=b.partition_version,
            repeated=placed.repeated,
            early=b.early,
        )

    def release(self, request_id, attempt, lease_id) -> str:
        result, _ = self.router.release(
            MODEL, request_id, attempt, self._now, lease_id=lease_id, output_tokens=5
        )
        return result.name

    def renew(self, leases):
        return self.router.renew(MODEL, leases, self._now)

    def register(self, spec, state) -> int:
        return self.workers.register(MODEL, spec, state, None, self._now)

    @answering
    def drain(self, worker) -> int:
        self.router.model(MODEL).expire(self._now)
        return self.workers.drain(MODEL, worker)

    @answering
    def remove(self, worker, incarnation) -> int:
        self.router.model(MODEL).expire(self._now)
        return self.workers.remove(MODEL, worker, incarnation, self._now)

    @answering
    def report(self, worker, report):
        return self.workers.report(MODEL, worker, report, self._now)

    @answering
    def signature(self, request_id, epoch, sequence, last, counts) -> bool:
        held = self.router.register_signature(
            MODEL,
            request_id,
            epoch,
            counts,
            sequence=sequence,
            total_chunks=2 if last else 0,
            fingerprint=id(counts),
            now=self._now,
        )
        return held.complete

    def set_policy(self, name) -> None:
        self._chosen.set_policy(MODEL, create(name, {}))

    def activate(self, version) -> None:
        self.partitions.activate(MODEL, version)

    def sums(self) -> dict[str, Sums]:
        model = self.router.model(MODEL)
        model.expire(self._now)
        fleet = model.fleet
        said = {}
        for row in fleet.rows():
            record = fleet.record(row)
            sequences, tokens = int(record["booked_sequences"]), int(record["booked_tokens"])
            said[fleet.spec(row).worker_id] = Sums(
                fleet.state(row).name,
                fleet.incarnation(row),
                sequences=sequences,
                tokens=tokens,
                load=fleet.load(row, self._now),
            )
        return said

    def check(self, living) -> None:
        model = self.router.model(MODEL)
        fleet, bookings = model.fleet, list(model.bookings)
        found = {b.request_id: (b.attempt, b.worker_id, b.lease_id) for b in bookings}
        assert found == living
        for row in fleet.rows():
            unseen = sum(b.tokens for b in bookings if b.row == row and not b.seen_running)
            assert fleet.record(row)["unseen_tokens"] == unseen
        if model.bindings:
            bound = {fleet.spec(row).worker_id for row in model.bindings.slot_of}
            assert bound == {fleet.spec(row).worker_id for row in model.rows_to_bind()}
        check_policy(model.policy, bookings)


def check_policy(policy, bookings) -> None:
    """Check that what a policy keeps per worker is the sum over the living bookings."""
    state = policy.state()
    if remaining := inside(state, "remaining"):
        keys = zip(unpack_texts(remaining["requests"]), remaining["attempts"].tolist(), strict=True)
        kept = dict(zip(keys, zip(remaining["rows"].tolist(), remaining["sequences"].tolist(),
                                  strict=True), strict=True))  # fmt: skip
        assert kept == {b.key: (b.row, b.num_sequences) for b in bookings}
    if experts := inside(state, "experts"):
        keys = zip(unpack_texts(experts["requests"]), experts["attempts"].tolist(), strict=True)
        held = {key: experts[f"held/{i}"] for i, key in enumerate(keys)}
        living = {b.key: b for b in bookings}
        assert set(held) <= set(living)
        assert {b.key for b in bookings if b.counts is not None} <= set(held)
        sums, unused = experts["batches/sums"], experts["batches/unused"]
        again, spared = np.zeros_like(sums), np.full_like(unused, 127)
        active = np.zeros(len(sums))
        for key, terms in held.items():
            row, times = living[key].row, living[key].num_sequences
            active[row] = add_use(terms, times, 1.0, again[row], spared[row], spared[row].copy())
        assert np.array_equal(again, sums)
        assert np.array_equal(spared, unused)
        held_by_row = np.zeros_like(experts["batches/requests"])
        for key in held:
            held_by_row[living[key].row] += living[key].num_sequences
        assert np.array_equal(held_by_row, experts["batches/requests"])
        assert np.allclose(active, experts["batches/active"], atol=1e-3)
