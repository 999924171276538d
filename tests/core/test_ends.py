"""Remembered ends: what they say, when they go, and that the collector never sees them."""

import gc

from eldr_service.core import ends
from eldr_service.core.ends import Ended, Ends


def test_each_attempt_and_the_last_worker_are_remembered():
    kept = Ends()
    assert kept.of("r") is None
    kept.add("r", 0, Ended.WORKER_GONE, 1.0, "decode-ü")
    kept.add("r", 2, Ended.RELEASED_EARLY, 2.0)
    kept.add("r", 1, Ended.RELEASED, 3.0, "decode-1")
    past = kept.of("r")
    assert past.attempts == {0: Ended.WORKER_GONE, 2: Ended.RELEASED_EARLY, 1: Ended.RELEASED}
    assert past.last == (1, "decode-1")
    kept.add("r", 1, Ended.EXPIRED, 4.0)
    assert kept.of("r").attempts[1] is Ended.EXPIRED
    assert kept.of("r").last == (1, "decode-1")
    kept.add("s", 2**32 - 1, Ended.SUPERSEDED, 4.0)
    assert kept.of("s") == ({2**32 - 1: Ended.SUPERSEDED}, None)
    assert len(kept) == 2


def test_a_request_is_forgotten_ten_minutes_after_its_last_end():
    kept = Ends()
    kept.add("early", 0, Ended.RELEASED, 0.0, "w")
    kept.add("again", 0, Ended.EXPIRED, 0.0, "w")
    kept.add("again", 1, Ended.RELEASED, 50.0, "w")
    kept.forget(599.9)
    assert len(kept) == 2
    kept.forget(600.0)
    assert kept.of("early") is None
    assert len(kept.of("again").attempts) == 2
    kept.forget(650.0)
    assert len(kept) == 0


def test_a_large_table_is_forgotten_in_parts():
    kept = Ends()
    for number in range(20_000):
        kept.add(f"request-{number}", 0, Ended.RELEASED, number / 1_000, "w")
    kept.forget(700.0)
    assert 18_000 < len(kept) < 19_500
    for _ in range(20):
        kept.forget(700.0)
    assert len(kept) == 0


def test_the_oldest_make_room():
    kept = Ends(most=20_000)
    for number in range(80_000):
        kept.add(f"request-{number}", 0, Ended.RELEASED, number, "w")
    assert len(kept) <= 20_000
    newest = [kept.of(f"request-{number}") for number in range(75_000, 80_000)]
    assert sum(past is not None for past in newest) > 4_500


def test_a_request_keeps_its_highest_attempts():
    kept = Ends()
    for attempt in range(100):
        kept.add("r", attempt, Ended.SUPERSEDED, 1.0, f"w{attempt}")
    past = kept.of("r")
    assert list(past.attempts) == list(range(100 - ends.MOST_ATTEMPTS, 100))
    assert past.last == (99, "w99")


def test_the_collector_has_nothing_to_look_through():
    before = len(gc.get_objects())
    kept = Ends()
    for number in range(10_000):
        kept.add(f"request-{number}", number % 3, Ended.RELEASED, 1.0, "w")
    gc.collect()
    assert len(gc.get_objects()) - before < 100
