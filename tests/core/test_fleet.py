import numpy as np
import pytest

from eldr_service.core.capture import CaptureState, CaptureStatus
from eldr_service.core.fleet import Fleet
from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec, WorkerState


def fleet_of(*capacities, kv=0):
    fleet = Fleet(report_limit=5.0)
    for i, capacity in enumerate(capacities):
        spec = WorkerSpec(f"w{i}", capacity_sequences=capacity, capacity_kv_tokens=kv)
        fleet.join(spec, WorkerState.READY, incarnation=1, now=0.0)
    return fleet


def loads(fleet, now=0.0, unit="sequences"):
    return fleet.snapshot(now, load=unit).load.tolist()


def test_load_is_a_fraction_of_the_capacity_and_ties_are_exact():
    fleet = fleet_of(3, 6, 7)
    for row, sequences in enumerate((1, 2, 0)):
        fleet.book(row, sequences, 0)
    first, second, third = loads(fleet)
    assert first == second == 1 / 3
    assert third == 0
    fleet.book(0, 2, 0)
    fleet.book(2, 7, 0)
    assert loads(fleet)[0] == loads(fleet)[2] == 1
    assert [fleet.load(row, 0.0) for row in range(3)] == loads(fleet)


def test_prefill_workers_are_no_measure():
    fleet = fleet_of(4)
    large = WorkerSpec("prefill", WorkerRole.PREFILL, capacity_sequences=1_000)
    fleet.join(large, WorkerState.READY, 1, 0.0)
    fleet.book(0, 2, 0)
    assert loads(fleet) == [0.5]
    assert fleet.load(0, 0.0) == 0.5


def test_foreign_sequences_count_while_they_are_fresh():
    fleet = fleet_of(4, 4)
    fleet.book(0, 1, 0)
    assert fleet.accept(0, LoadReport(1, 0, foreign_sequences=2), now=10.0)
    assert loads(fleet, now=15.0) == [0.75, 0.0]
    snapshot = fleet.snapshot(15.01)
    assert snapshot.load.tolist() == [0.25, 0.0]
    assert snapshot.stale.tolist() == [True, False]  # one that never reported is not stale
    assert fleet.load(0, 15.01) == 0.25


def test_late_reports_and_those_of_another_life_change_nothing():
    fleet = fleet_of(4)
    assert fleet.accept(0, LoadReport(1, 5, foreign_sequences=1), 1.0)
    for late in (LoadReport(1, 5, foreign_sequences=9), LoadReport(0, 6), LoadReport(2, 6)):
        assert not fleet.accept(0, late, 2.0)
    assert loads(fleet, 2.0) == [0.25]
    assert fleet.record(0)["reported_at"] == 1.0


def test_a_capture_holds_until_another_is_said():
    fleet = fleet_of(4)
    probing, stopped = (CaptureStatus(state) for state in (CaptureState(1), CaptureState(3)))
    assert fleet.capture(0) is None
    for number, said, holds in ((1, probing, probing), (2, None, probing), (3, stopped, stopped)):
        assert fleet.accept(0, LoadReport(1, number, capture=said), 0.0)
        assert fleet.capture(0) is holds
    assert not fleet.accept(0, LoadReport(1, 3, capture=probing), 0.0)
    assert fleet.capture(0) is stopped


def test_loads_in_tokens_and_kv():
    fleet = fleet_of(4, 8, kv=1_000)
    fleet.book(0, 1, 100)
    fleet.book(1, 1, 300)
    assert loads(fleet, unit="tokens") == [0.1, 0.3]
    assert loads(fleet, unit="kv") == [0.1, 0.3]  # nothing reported: by own bookings
    fleet.accept(0, LoadReport(1, 1, kv_tokens_used=40, kv_tokens_total=500), 0.0)
    assert loads(fleet, unit="kv") == [(40 + 100) / 500, 0.3]
    fleet.seen(0, 100)  # from now on within the 40
    assert loads(fleet, unit="kv") == [0.08, 0.3]
    assert loads(fleet, now=5.1, unit="kv") == [0.2, 0.3]
    fleet.unbook(0, fleet.generation(0), 1, 100, seen=True)
    assert loads(fleet, unit="kv") == [0.08, 0.3]


@pytest.mark.parametrize("unit", ["tokens", "kv"])
def test_without_kv_capacities_tokens_are_relative_to_sequences(unit):
    fleet = fleet_of(4, 8)
    fleet.book(0, 1, 100)
    assert loads(fleet, unit=unit) == [25.0, 0.0]


def test_no_report_makes_a_load_negative():
    fleet = fleet_of(2**32 - 1, 1)
    fleet.book(0, 1, 2**40)
    for used in (2**62, 2**63 - 1):
        report = LoadReport(1, used, kv_tokens_used=used, kv_tokens_total=2**63 - 1)
        assert fleet.accept(0, report, 0.0)
        for unit in ("sequences", "tokens", "kv"):
            assert min(loads(fleet, unit=unit)) >= 0


def test_a_row_passes_to_another_worker_without_its_counts():
    fleet = fleet_of(4, 4)
    generation = fleet.generation(0)
    fleet.book(0, 3, 30)
    capture = CaptureStatus(CaptureState.CAPTURING)
    fleet.accept(0, LoadReport(1, 9, foreign_sequences=1, capture=capture), 0.0)
    assert fleet.capture(0) == capture
    fleet.set_state(0, WorkerState.GONE)
    assert fleet.join(WorkerSpec("new"), WorkerState.READY, 2, 0.0) == 0
    fleet.unbook(0, generation, 3, 30, seen=False)  # the end of the other's booking
    assert fleet.booked(0) == 0
    assert fleet.record(0)["unseen_tokens"] == 0
    assert fleet.capture(0) is None
    assert loads(fleet) == [0.0, 0.0]


def test_the_table_grows():
    fleet = fleet_of(*[4] * 20)
    assert [fleet.spec(row).worker_id for row in fleet.rows()] == [f"w{i}" for i in range(20)]
    snapshot = fleet.snapshot(0.0)
    assert snapshot.slots.tolist() == [-1] * 20
    assert np.isnan(snapshot.active_experts).all()
