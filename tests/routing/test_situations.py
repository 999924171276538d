"""What answers a request in each situation, and for which reason; and what goes with it."""

import pytest
from small_daemon import GEOMETRY, MODEL, SmallDaemon, counts_on
from structlog.testing import capture_logs

from eldr_service.core.decision import Decision, Reason
from eldr_service.core.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import WorkerRole, WorkerSpec, WorkerState
from eldr_service.policies.registry import create
from eldr_service.policies.round_robin import RoundRobin
from eldr_service.routing.router import ReleaseResult
from eldr_service.stores.sqlite import SqliteStore

OTHER = ModelGeometry(3, 4, 1)
LOAD_ONLY = ["round-robin", "random", "join-shortest-queue", "power-of-two-choices"]


@pytest.fixture
def daemon():
    """Four workers, one for each of four slots."""
    daemon = SmallDaemon()
    daemon.join("w0", "w1", "w2", "w3")
    daemon.activate()
    return daemon


# Signature and partition there


def test_the_band_decides(daemon):
    daemon.route("load", pinned_worker="w0")  # the second best, which joins the band
    booking = daemon.route("r", counts=counts_on(2))
    assert (booking.worker_id, booking.reason) == ("w2", Reason.LOCALITY_BAND)
    assert (booking.similarity, booking.coverage, booking.partition_version) == (1.0, 1.0, 1)


def test_locality_without_a_band(daemon):
    daemon.model.set_policy(create("locality", {}))
    assert daemon.route("r", counts=counts_on(3)).reason is Reason.POLICY


@pytest.mark.parametrize("policy", LOAD_ONLY)
def test_load_policies_need_no_signature(daemon, policy):
    daemon.model.set_policy(create(policy, {}))
    booking = daemon.route("r")
    assert (booking.reason, booking.similarity, booking.partition_version) == (
        Reason.POLICY,
        None,
        0,
    )


def test_a_streamed_signature_decides_like_an_inline_one(daemon):
    daemon.route("load", pinned_worker="w0")
    for sequence in (1, 0):
        daemon.router.register_signature(
            MODEL,
            "r",
            0,
            counts_on(1, tokens=5),
            sequence=sequence,
            total_chunks=2,
            fingerprint=sequence,
            now=daemon.now,
        )
    assert daemon.route("r").worker_id == "w1"
    daemon.router.release(MODEL, "r", 0, daemon.now)
    assert daemon.router.signatures.get(MODEL, "r") is None


def test_fits_learn_from_whole_signatures_alone(daemon):
    for sequence, total in ((0, 0), (1, 2)):
        daemon.router.register_signature(
            MODEL,
            "r",
            0,
            counts_on(sequence, tokens=5),
            sequence=sequence,
            total_chunks=total,
            fingerprint=sequence,
            now=daemon.now,
        )
        assert daemon.route("r").early is (sequence == 0)
        assert len(daemon.model.recent) == sequence


# The lesser answers


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (None, Reason.LEAST_LOADED_NO_SIGNATURE),
        (counts_on(2, tokens=0), Reason.LEAST_LOADED_NO_SIGNATURE),
        (counts_on(2, tokens=0, unknown=10), Reason.LEAST_LOADED_LOW_COVERAGE),
        (counts_on(2, tokens=499, unknown=501), Reason.LEAST_LOADED_LOW_COVERAGE),
        (counts_on(2, tokens=500, unknown=500), Reason.LOCALITY_BAND),
    ],
)
def test_no_signature_or_low_coverage(daemon, counts, reason):
    daemon.route("load", pinned_worker="w0")
    booking = daemon.route("r", counts=counts)
    assert booking.reason is reason
    assert booking.worker_id == ("w2" if reason is Reason.LOCALITY_BAND else "w1")


def test_zero_norm_is_no_signature(daemon):
    daemon.model.set_policy(create("locality-band", {"min_coverage": "0"}))
    booking = daemon.route("r", counts=counts_on(2, tokens=0, unknown=10))
    assert booking.reason is Reason.LEAST_LOADED_NO_SIGNATURE


def test_no_partition():
    daemon = SmallDaemon()
    daemon.join("w0", "w1")
    daemon.route("load", pinned_worker="w0")
    booking = daemon.route("r", counts=counts_on(0))
    assert (booking.worker_id, booking.reason) == ("w1", Reason.LEAST_LOADED_NO_PARTITION)
    assert (booking.partition_version, booking.coverage) == (0, 1.0)


def test_stale_reports_leave_own_bookings(daemon):
    daemon.model.set_policy(create("join-shortest-queue", {}))
    for worker in ("w1", "w2", "w3"):
        daemon.route(f"on {worker}", pinned_worker=worker)
    daemon.report("w0", 1, foreign_sequences=3)
    assert not daemon.route("fresh", exclude_workers=["w2", "w3"]).stale
    assert daemon.booked() == {"w0": 0, "w1": 2, "w2": 1, "w3": 1}
    daemon.now += 5.01
    booking = daemon.route("r")
    assert (booking.worker_id, booking.stale) == ("w0", True)
    assert not daemon.route("other", exclude_workers=["w0"]).stale


# Nobody there


@pytest.mark.parametrize(
    "filters",
    [
        {"candidate_workers": ["w9"]},
        {"exclude_workers": ["w0", "w1", "w2", "w3"]},
        {"worker_selector": {"zone": "x"}},
        {"pinned_worker": "w9"},
        {"pinned_worker": "w1", "exclude_workers": ["w1"]},
    ],
)
def test_unavailable_by_filters(daemon, filters):
    with pytest.raises(UnavailableError, match="no READY decode worker"):
        daemon.route("r", **filters)


def test_unavailable_without_workers(daemon):
    for worker in ("w0", "w1", "w2", "w3"):
        daemon.workers.drain(MODEL, worker)
    with pytest.raises(UnavailableError):
        daemon.route("r")
    daemon.join("w4", state=WorkerState.JOINING)
    with pytest.raises(UnavailableError):
        daemon.route("r")
    daemon.report("w4", 1)
    assert daemon.route("r").worker_id == "w4"
    with pytest.raises(UnavailableError):
        SmallDaemon().route("r")


def test_the_prefill_workers_group_restricts():
    daemon = SmallDaemon()
    daemon.join("near", "far", group="g")
    daemon.join("elsewhere", group="h")
    daemon.join("anywhere")
    daemon.join("prefill", role=WorkerRole.PREFILL, group="h")
    told = daemon.route("r", prefill_worker="prefill", explain=True).scores
    assert [s.worker_id for s in told if not s.ineligible_reason] == ["elsewhere", "anywhere"]
    assert told[0].ineligible_reason == "it is not in the prefill worker's group h"


def test_all_full(daemon):
    for i in range(4):
        daemon.route(f"r{i}", num_sequences=4)
    with pytest.raises(ResourceExhaustedError) as error:
        daemon.route("r")
    assert error.value.retry_after > 0
    daemon.router.release(MODEL, "r0", 0, daemon.now)
    assert daemon.route("r")


def test_unknown_names_are_not_found(daemon):
    for call in (
        lambda: daemon.router.release("other", "r", 0, daemon.now),
        lambda: daemon.router.renew("other", [], daemon.now),
        lambda: daemon.workers.drain(MODEL, "w9"),
        lambda: daemon.workers.remove("other", "w0", 0, daemon.now),
        lambda: daemon.partitions.get(MODEL, 9),
        lambda: daemon.partitions.activate("other", 1),
        lambda: daemon.chosen.set_policy("other", create("random", {})),
    ):
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(FailedPreconditionError, match="no partition before"):
        daemon.partitions.rollback(MODEL)


# Attempts


def test_the_superseded_worker_comes_last(daemon):
    daemon.model.set_policy(create("locality", {}))
    assert daemon.route("r", counts=counts_on(2)).worker_id == "w2"
    placed = daemon.route("r", 1, counts=counts_on(2), explain=True)
    targets = [target.worker_id for target in placed.booking.targets]
    assert targets[0] != "w2"
    assert targets[-1] == "w2"
    assert sum(daemon.booked().values()) == 1
    assert "tried last" in placed.scores[2].ineligible_reason
    assert daemon.route("r", 2, pinned_worker="w2").worker_id == "w2"
    assert daemon.route("r", 3, candidate_workers=["w2"]).worker_id == "w2"


def test_its_own_place_is_free_for_a_higher_attempt():
    daemon = SmallDaemon()
    daemon.join("only", capacity_sequences=1)
    daemon.route("r")
    assert daemon.route("r", 1).worker_id == "only"


def test_placed_afresh_on_a_returned_worker_it_ends_once():
    daemon = SmallDaemon()
    daemon.join("w0")
    first = daemon.route("r", lease_seconds=10.0)
    daemon.now += 1
    daemon.join("w0")
    again = daemon.route("r", lease_seconds=10.0)
    assert first.lease_id != again.lease_id
    daemon.now += 20
    daemon.router.tick(daemon.now)
    assert daemon.booked() == {"w0": 0}
    assert dict(daemon.told.ended_leases) == {first.lease_id: 1, again.lease_id: 1}


def test_alternates_are_the_band_then_the_others_by_load(daemon):
    daemon.join("w4")  # unbound workers share a slot
    with_slot = next(slot for worker, slot in daemon.slots().items() if worker == "w4")
    for worker, sequences in {"w1": 2, "w2": 1, "w3": 3}.items():
        daemon.route(f"on {worker}", pinned_worker=worker, num_sequences=sequences)
    booking = daemon.route("r", counts=counts_on(with_slot))
    order = [target.worker_id for target in booking.targets]
    band = {worker for worker, slot in daemon.slots().items() if slot == with_slot}
    assert set(order[:2]) == band
    loads = [daemon.booked()[worker] for worker in order[2:]]
    assert loads == sorted(loads)


# Dry runs and chance


@pytest.mark.parametrize("policy", [*LOAD_ONLY, "locality-band"])
def test_dry_runs_change_nothing_and_seeds_repeat(policy):
    def placements(dry_runs):
        daemon = SmallDaemon()
        daemon.join(*(f"w{i}" for i in range(5)), capacity_sequences=64)
        daemon.activate()
        daemon.model.set_policy(create(policy, {}))
        for i in range(40):
            for _ in range(i % 3 if dry_runs else 0):
                tried = daemon.route("dry", dry_run=True, counts=counts_on(i % 4))
                assert tried.lease_id == ""
            yield daemon.route(f"r{i}", counts=counts_on(i % 4)).worker_id
        assert sum(daemon.booked().values()) == 40

    assert list(placements(dry_runs=True)) == list(placements(dry_runs=False))


def test_a_dry_run_tells_what_a_route_would_do(daemon):
    daemon.model.set_policy(create("locality", {}))
    tried = daemon.route("r", dry_run=True, counts=counts_on(1))
    assert daemon.route("r", counts=counts_on(1)).worker_id == tried.worker_id
    daemon.router.release(MODEL, "r", 0, daemon.now)
    assert daemon.route("r", dry_run=True, counts=counts_on(1)).worker_id == "w1"


def test_pinned_says_so(daemon):
    booking = daemon.route("r", pinned_worker="w3", counts=counts_on(0))
    assert (booking.worker_id, booking.reason) == ("w3", Reason.PINNED)
    assert [target.worker_id for target in booking.targets] == ["w3"]


# Policies that fail


class Faulty(RoundRobin):
    """Picks what it is told to, and fails in its hooks."""

    answer = None

    def pick(self, request, fleet):
        return self.answer(fleet)

    def on_booked(self, booking):
        raise RuntimeError("booked")

    def on_ended(self, booking, ended):
        raise RuntimeError("ended")


@pytest.mark.parametrize(
    "answer",
    [
        lambda fleet: 1 / 0,
        lambda fleet: None,
        lambda fleet: Decision(-1),
        lambda fleet: Decision(4),
        lambda fleet: Decision(0),
        lambda fleet: Decision(1, in_band=fleet.eligible[:2]),
        lambda fleet: Decision(1, similarity=fleet.load[:1]),
    ],
)
def test_a_failing_policy_fails_no_request(daemon, answer):
    daemon.workers.drain(MODEL, "w0")
    daemon.route("before", pinned_worker="w1")
    policy = Faulty()
    policy.answer = answer
    with capture_logs() as logs:
        daemon.model.set_policy(policy)
        booking = daemon.route("r")
        assert (booking.worker_id, booking.reason) == ("w2", Reason.LEAST_LOADED_POLICY_ERROR)
        daemon.now += 1e6
        daemon.router.tick(daemon.now)
    assert set(daemon.booked().values()) == {0}
    assert [entry["event"] for entry in logs] == ["policy failed"] * 5  # four hooks and a pick
    assert all(entry["log_level"] == "error" and entry["policy"] == policy.name for entry in logs)


# Geometry


def test_geometry_lasts_as_long_as_who_declared_it():
    daemon = SmallDaemon()
    daemon.join("w0", "w1", geometry=GEOMETRY)
    daemon.join("silent")
    with pytest.raises(FailedPreconditionError, match="has 2 layers x 4 experts, top-1, not 3"):
        daemon.join("w2", geometry=OTHER)
    assert "w2" not in daemon.model.fleet
    daemon.workers.remove(MODEL, "w0", 0, daemon.now)
    assert daemon.model.geometry == GEOMETRY
    daemon.join("w1")  # it returns, and says nothing this time
    assert daemon.model.geometry is None
    daemon.join("w2", geometry=OTHER)
    with pytest.raises(FailedPreconditionError):
        daemon.activate()
    with pytest.raises(FailedPreconditionError):
        daemon.route("r", counts=counts_on(0))
    daemon.workers.remove(MODEL, "w2", 0, daemon.now)
    daemon.activate()
    assert daemon.model.geometry == GEOMETRY


def test_counts_never_define_a_geometry():
    daemon = SmallDaemon()
    daemon.join("w0")
    booking = daemon.route("r", counts=counts_on(0))
    assert booking.reason is Reason.LEAST_LOADED_NO_PARTITION
    assert daemon.model.geometry is None
    daemon.join("w1", geometry=OTHER)
    daemon.router.release(MODEL, "r", 0, daemon.now)


# Restart


def facts(daemon):
    fleet = daemon.model.fleet
    return (
        [(fleet.spec(r), fleet.state(r), fleet.incarnation(r)) for r in fleet.rows()],
        daemon.slots(),
        daemon.model.partition.version,
        daemon.model.policy.name,
        daemon.model.policy.parameters,
        daemon.model.geometry,
    )


def test_a_restart_changes_nothing(tmp_path):
    store = SqliteStore(tmp_path)
    daemon = SmallDaemon(store=store)
    daemon.join("w0", "w1", "w2", geometry=GEOMETRY, labels={"zone": "a"}, group="g")
    daemon.join("w3", state=WorkerState.JOINING)
    daemon.activate(slots=2)
    daemon.activate(slots=4)
    daemon.activate(slots=3)
    daemon.chosen.set_policy(MODEL, create("locality-band", {"tau": "0.25"}))
    daemon.workers.drain(MODEL, "w1")
    daemon.join("w0")  # its slot is another's by now
    before = facts(daemon)
    for _ in range(3):
        store.close()
        store = SqliteStore(tmp_path)
        daemon = SmallDaemon(store=store, first_incarnation=1_000)
        daemon.chosen.restore(daemon.now)
        assert facts(daemon) == before
    assert [daemon.partitions.rollback(MODEL).version for _ in range(2)] == [2, 1]
    assert daemon.partitions.add(daemon.model.partition).version == 4
    daemon.join("w4")
    assert daemon.incarnations["w4"] > 1_000


def test_counts_define_no_geometry_of_a_policy():
    daemon = SmallDaemon()
    daemon.join("a", "b")
    daemon.model.set_policy(create("marginal-cost", {}))
    booking = daemon.route("r0", counts=counts_on(1))
    assert (booking.reason, booking.counts) == (Reason.LEAST_LOADED_NO_PARTITION, None)
    assert daemon.model.policy.experts.known is None
    daemon.join("c", geometry=GEOMETRY)
    assert daemon.route("r1", counts=counts_on(1)).reason is Reason.POLICY


def test_names_of_unknown_models_are_bounded():
    daemon = SmallDaemon()
    most = daemon.router.limits.max_models
    for number in range(most):
        daemon.router.register_signature(
            f"unknown-{number}", "r", 0, counts_on(1), sequence=0, fingerprint=0, now=daemon.now
        )
    with pytest.raises(ResourceExhaustedError, match="is unknown, and signatures of"):
        daemon.router.register_signature(
            "one-more", "r", 0, counts_on(1), sequence=0, fingerprint=0, now=daemon.now
        )


def test_an_empty_model_is_forgotten_with_its_last_tombstone():
    daemon = SmallDaemon()
    daemon.join("w0")
    daemon.router.release(MODEL, "early", 0, daemon.now)
    daemon.workers.remove(MODEL, "w0", 0, daemon.now)
    daemon.router.tick(daemon.now + 599)
    assert MODEL in daemon.router.models
    daemon.router.tick(daemon.now + 601)
    assert MODEL not in daemon.router.models


def test_a_chosen_policy_keeps_its_model():
    daemon = SmallDaemon()
    daemon.join("w0")
    daemon.chosen.set_policy(MODEL, create("random", {}))
    daemon.workers.remove(MODEL, "w0", 0, daemon.now)
    daemon.router.tick(daemon.now)
    assert daemon.model.policy.name == "random"


def test_releasing_for_a_model_without_workers_makes_no_model():
    daemon = SmallDaemon()
    daemon.router.register_signature(
        "other", "r", 0, counts_on(0), fingerprint=1, total_chunks=1, now=daemon.now
    )
    result, _ = daemon.router.release("other", "r", 0, daemon.now)
    assert result is ReleaseResult.UNKNOWN
    assert not daemon.router.models
    assert not len(daemon.router.signatures)


def test_who_alone_declared_a_geometry_may_correct_it():
    daemon = SmallDaemon()
    daemon.join("w0", geometry=ModelGeometry(3, 4, 1))
    daemon.join("w0", geometry=GEOMETRY)
    assert daemon.model.geometry == GEOMETRY
    daemon.join("w1", geometry=GEOMETRY)
    with pytest.raises(FailedPreconditionError):
        daemon.join("w0", geometry=ModelGeometry(3, 4, 1))


def test_a_static_worker_that_registers_itself_is_kept():
    daemon = SmallDaemon()
    spec = WorkerSpec("w0")
    daemon.workers.register(MODEL, spec, WorkerState.READY, None, daemon.now, static=True)
    assert not daemon.store.workers()
    daemon.join("w0")
    assert [worker.worker_id for worker in daemon.store.workers()] == ["w0"]
