"""A request without a signature is placed by what earlier ones of its kind used."""

import pytest
from small_daemon import GEOMETRY, MODEL, SmallDaemon, counts_on

from eldr_service.core.decision import Reason
from eldr_service.core.signature_memory import SignatureSource
from eldr_service.policies.registry import create
from eldr_service.stores.bookings import BookingStore, kept_of, row_of
from eldr_service.stores.sqlite import SqliteStore


@pytest.fixture
def daemon():
    """Four workers, one for each of four slots; the one that likes a request is to have it."""
    daemon = SmallDaemon()
    daemon.join("w0", "w1", "w2", "w3", geometry=GEOMETRY)
    daemon.activate()
    daemon.model.set_policy(create("locality", {}))
    return daemon


def registered(daemon, request_id, expert, **fields):
    daemon.router.register_signature(
        MODEL, request_id, 0, counts_on(expert), total_chunks=1, fingerprint=1, now=daemon.now,
        **fields,
    )  # fmt: skip


def released(daemon, request_id, decode=None):
    counts = None if decode is None else counts_on(decode)
    return daemon.router.release(MODEL, request_id, 0, daemon.now, decode_counts=counts)


def turn(daemon, request_id, expert, **fields):
    """A request on a plain replica: placed first, its signature comes with its own prefill."""
    booking = daemon.route(request_id, **fields)
    registered(daemon, request_id, expert)
    released(daemon, request_id)
    return booking


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"session": "s"}, SignatureSource.SESSION),
        ({"prefix_hashes": (5, 6)}, SignatureSource.PREFIX),
        ({"labels": {"tenant": "t"}}, SignatureSource.TENANT),
    ],
)
def test_the_second_request_of_a_kind_goes_where_the_first_belonged(daemon, fields, source):
    first = turn(daemon, "first", 2, **fields)
    assert (first.reason, first.source) == (
        Reason.LEAST_LOADED_NO_SIGNATURE,
        SignatureSource.UNSPECIFIED,
    )
    second = daemon.route("second", **fields)
    assert (second.worker_id, second.reason, second.source) == ("w2", Reason.POLICY, source)
    assert second.similarity == pytest.approx(1)
    assert (second.known_coverage, second.early, second.awaits_signature) == (0, False, True)


def test_what_is_the_requests_own_comes_first(daemon):
    turn(daemon, "first", 2, session="s")
    inline = daemon.route("a", counts=counts_on(1), session="s")
    assert (inline.worker_id, inline.source) == ("w1", SignatureSource.CALLER)
    registered(daemon, "b", 3)
    held = daemon.route("b", session="s")
    assert (held.worker_id, held.source) == ("w3", SignatureSource.REGISTERED)


def test_the_booking_takes_in_the_true_signature_and_a_repeat_says_what_it_rested_on(daemon):
    turn(daemon, "first", 2, session="s")
    daemon.model.set_policy(create("marginal-cost", {}))
    booking = daemon.route("second", session="s")
    assert booking.counts[0].argmax() == 2
    registered(daemon, "second", 1)
    assert booking.counts[0].argmax() == 1
    assert (booking.known_coverage, booking.awaits_signature) == (1, False)
    again = daemon.route("second", session="s")
    assert again is booking
    assert again.source is SignatureSource.SESSION


def test_inline_signatures_teach_too(daemon):
    daemon.route("first", counts=counts_on(3), labels={"tenant": "t"})
    assert daemon.route("second", labels={"tenant": "t"}).worker_id == "w3"


def test_a_part_of_a_signature_teaches_nothing(daemon):
    daemon.route("first", session="s")
    daemon.router.register_signature(
        MODEL, "first", 0, counts_on(2), total_chunks=2, fingerprint=1, now=daemon.now
    )
    assert daemon.route("second", session="s").source is SignatureSource.UNSPECIFIED


def test_the_answer_counts_beside_the_prompt(daemon):
    daemon.route("first", session="s")
    registered(daemon, "first", 2)
    released(daemon, "first", decode=1)
    _, predicted = daemon.model.memory.predict(GEOMETRY, "s", (), "")
    assert (predicted[0] / predicted[0].sum(dtype=int)).round(3).tolist() == [0, 0.5, 0.5, 0]


def test_a_decode_stands_in_for_a_prefill_that_is_not_reported(daemon):
    daemon.route("first", labels={"tenant": "t"})
    released(daemon, "first", decode=3)
    second = daemon.route("second", labels={"tenant": "t"})
    assert (second.worker_id, second.source) == ("w3", SignatureSource.TENANT)


def test_predictions_are_not_what_partitions_are_fitted_on(daemon):
    turn(daemon, "first", 2, session="s")
    before = daemon.model.recent.kept
    daemon.route("second", session="s")
    released(daemon, "second")
    assert daemon.model.recent.kept == before


def test_counts_define_no_geometry_to_predict_for():
    daemon = SmallDaemon()
    daemon.join("w0", "w1")
    turn(daemon, "first", 2, session="s")
    assert daemon.route("second", session="s").source is SignatureSource.UNSPECIFIED


def test_the_store_knows_what_an_answer_rested_on(tmp_path):
    daemon = SmallDaemon(store=SqliteStore(tmp_path / "state"))
    daemon.join("w0", geometry=GEOMETRY)
    turn(daemon, "first", 0, session="s")
    booking = daemon.route("second", session="s")
    store = BookingStore(daemon.store)
    booking.number = 1
    store.write([(MODEL, 0, booking)], [], 0.0)
    (kept,) = store.living()
    assert kept.source == SignatureSource.SESSION
    of_before = row_of(MODEL, 0, booking, 0.0).rpartition(",")[0] + "]"  # an earlier version's
    assert kept_of(of_before).source == SignatureSource.UNSPECIFIED


def test_without_memory_nothing_is_predicted():
    daemon = SmallDaemon(prediction_bytes=0)
    daemon.join("w0", geometry=GEOMETRY)
    turn(daemon, "first", 2, session="s")
    assert daemon.route("second", session="s").source is SignatureSource.UNSPECIFIED
