"""The comparison with load alone, on requests whose experts are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from eldr_service.core.fleet import Fleet
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.policies.packed_use import PackedUse
from eldr_service.routing.call import Known
from eldr_service.server.comparison import load_only
from eldr_service.server.comparison.load_only import LoadOnly

KINDS, WORKERS, IN_FLIGHT = 4, 4, 32
LAYERS, EXPERTS, TOP_K = 2, 32, 2


def join(fleet, number, capacity=32):
    spec = WorkerSpec(f"w{number}", url="http://w", capacity_sequences=capacity)
    fleet.join(spec, WorkerState.READY, incarnation=1, now=0.0)


@pytest.fixture
def fleet():
    fleet = Fleet()
    for number in range(WORKERS):
        join(fleet, number)
    return fleet


def counts(kind, rng):
    """Of 60 tokens that use the eight experts of their kind alike."""
    table = np.zeros((LAYERS, EXPERTS), np.uint16)
    table[:, 8 * kind : 8 * kind + 8] = rng.multinomial(60 * TOP_K, [1 / 8] * 8, size=LAYERS)
    return table


def drive(fleet, place, requests=600, report=True, living=0):
    """Requests of kinds at random, each placed by `place(kind, number)`; the oldest ends."""
    rng = np.random.default_rng(0)
    compared, running = LoadOnly(fleet, living), []
    for number in range(requests):
        now = number / 10
        if len(running) == IN_FLIGHT:
            compared.ended(running.pop(int(rng.integers(IN_FLIGHT))), now)
        kind = int(rng.integers(KINDS))
        known = Known(counts=counts(kind, rng), top_k=TOP_K, coverage=1.0, declared=True)
        booking = SimpleNamespace(
            key=(str(number), 0),
            row=place(kind, rng),
            num_sequences=1,
            decode_counts=counts(kind, rng),
        )
        compared.placed(known, booking, now)
        running.append(booking)
        if report:
            active = 8.0 + number % 5
            told = LoadReport(1, number, active_experts=active, batch_size=8.0,
                              step_seconds=1e-3 * (2 + active))  # fmt: skip
            compared.reported(f"w{number % WORKERS}", told)
    return compared.comparison()


def test_kinds_apart_use_fewer_experts(fleet):
    found = drive(fleet, lambda kind, rng: kind)
    # Eight requests of a kind use 8 (1 - (1 - 1/4)^8) = 7.2 experts of a layer, once it is learned
    # how decodes differ from the mean; mixed, twice that.
    assert found.active_experts == pytest.approx(7.2, rel=0.15)
    assert found.active_experts_by_load == pytest.approx(4 * 8 * (1 - 0.75**2), rel=0.1)
    assert found.step_change < -0.2


def test_placed_by_load_there_is_no_difference(fleet):
    turn = iter(range(10**6))
    found = drive(fleet, lambda kind, rng: next(turn) % WORKERS)
    assert found.active_experts == pytest.approx(found.active_experts_by_load, rel=0.05)
    assert found.step_change == pytest.approx(0, abs=0.05)


def test_without_reports_no_time_is_told(fleet):
    found = drive(fleet, lambda kind, rng: kind, report=False)
    assert np.isnan(found.step_change)
    assert found.active_experts < found.active_experts_by_load


def test_nothing_is_said_while_requests_run_of_which_nothing_is_known(fleet):
    assert drive(fleet, lambda kind, rng: kind, requests=40) is None
    assert drive(fleet, lambda kind, rng: kind, requests=90, living=50) is None
    assert drive(fleet, lambda kind, rng: kind, requests=110, living=50) is not None


def test_a_part_of_the_workers_at_each_look_says_the_same(fleet, monkeypatch):
    whole = drive(fleet, lambda kind, rng: kind)
    monkeypatch.setattr(load_only, "MOST_LOOKED_AT", 3)
    part = drive(fleet, lambda kind, rng: kind)
    assert part != whole
    assert part.active_experts == pytest.approx(whole.active_experts, rel=0.02)
    assert part.active_experts_by_load == pytest.approx(whole.active_experts_by_load, rel=0.02)
    assert part.step_change == pytest.approx(whole.step_change, abs=0.02)


def test_load_is_relative_to_capacity_and_a_worker_that_joins_gets_its_share():
    fleet = Fleet()
    join(fleet, 0)
    turn = iter(range(10**6))

    def place(kind, rng):
        if next(turn) == 7:
            join(fleet, 1, capacity=7 * 32)
        return 0

    found = drive(fleet, place)
    # 4 and 28 of 32 requests, and of each kind a quarter of these; of 16 each it would be 21.9.
    by_load = 4 * (1 - 0.75) + 28 * (1 - 0.75**7)
    assert found.active_experts_by_load == pytest.approx(by_load, rel=0.05)
    assert found.active_experts == pytest.approx(32 * (1 - 0.75**8), rel=0.05)


def test_what_the_policy_has_predicted_is_taken_and_taken_again(fleet):
    def use(experts):
        """Of so many experts in each layer, half of the tokens."""
        table = np.zeros((LAYERS, EXPERTS), np.float32)
        table[:, :experts] = 0.5
        return PackedUse.of(table.ravel(), None, table.shape)

    def active():
        return compared.predicted(0, LoadReport(1, 1, batch_size=2.0))

    rng = np.random.default_rng(0)
    compared = LoadOnly(fleet, living=0)
    known = Known(counts=counts(0, rng), top_k=TOP_K, coverage=1.0, awaits_signature=True)
    both = [
        SimpleNamespace(key=(name, 0), row=0, num_sequences=1, decode_counts=None) for name in "ab"
    ]
    for booking in both:
        compared.placed(known, booking, 0.0, use(4))
    assert active() == pytest.approx(4 * 0.75, rel=1e-2)
    compared.completed(both[0], use(8))
    assert active() == pytest.approx(4 * 0.75 + 4 * 0.5, rel=1e-2)
    compared.ended(both[0], 0.0)
    assert active() == pytest.approx(4 * 0.5, rel=1e-2)
