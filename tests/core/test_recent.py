import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eldr_service.core.recent import RecentCounts


def numbered(number, shape=(3, 4)):
    return np.full(shape, number, dtype=np.uint32)


def held(recent):
    """The numbers of those held, the oldest first."""
    return [int(one[0, 0]) for run in recent.runs() for one in run]


def test_the_memory_is_fixed_and_the_oldest_goes_first():
    recent = RecentCounts(max_bytes=100, span=1e-3)  # 4 of 24 bytes; the last span brings but one
    for i in range(9):
        recent.add(numbered(i), now=float(i))
    assert held(recent) == [5, 6, 7, 8]
    assert recent.kept == 9
    assert [int(one[0, 0]) for one in recent.newest(2)] == [7, 8]
    recent.add(numbered(1, (2, 2)), now=9.0)  # another shape
    assert held(recent) == [1]
    recent.add(numbered(1, (20, 20)), now=10.0)  # larger than the memory alone
    assert held(recent) == []


def test_what_is_too_old_is_spilled():
    recent = RecentCounts(max_bytes=24 * 5, span=10.0)
    for i in range(4):
        recent.add(numbered(i), now=4.0 * i)
    recent.spill(now=15.0)  # of 0, 4, 8 and 12
    assert held(recent) == [2, 3]
    recent.spill(now=100.0)
    assert (len(recent), held(recent)) == (0, [])
    recent.add(numbered(7), now=101.0)
    assert held(recent) == [7]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60), st.integers(1, 7))
def test_it_holds_the_latest_of_those_kept(steps, places):
    recent = RecentCounts(max_bytes=24 * places, span=10.0)
    now, kept = 0.0, []
    for number, (pause, spills) in enumerate(steps):
        now += pause
        before = recent.kept
        recent.add(numbered(number), now)
        if recent.kept > before:
            kept.append((number, now))
        kept = kept[-places:]
        if spills:
            recent.spill(now)
            kept = [(n, t) for n, t in kept if t >= now - 10.0]
        assert held(recent) == [n for n, _ in kept]
        assert len(recent) == len(kept)


@pytest.mark.parametrize("rate", [5, 50, 500])
def test_it_spans_its_time_at_any_rate(rate):
    recent = RecentCounts(max_bytes=24 * 200, span=10.0)
    for i in range(60 * rate):
        recent.add(numbered(i), now=i / rate)
    recent.spill(now=60.0)
    ages = 60.0 - np.array(held(recent)) / rate
    assert len(recent) == pytest.approx(min(200, 10 * rate), abs=30)
    assert 8.0 < ages.max() <= 10.0
    assert ages.mean() == pytest.approx(5.0, abs=0.7)


def test_counts_beyond_16_bits_keep_their_proportions():
    recent = RecentCounts()
    recent.add(np.array([[400_000, 200_000, 9, 3]], dtype=np.uint32), now=0.0)
    recent.add(np.array([[65_535, 1, 0, 0]], dtype=np.uint32), now=0.0)
    assert recent.runs()[0].tolist() == [[[50_000, 25_000, 1, 0]], [[65_535, 1, 0, 0]]]


def test_closed_it_holds_nothing():
    recent = RecentCounts()
    recent.add(numbered(1), now=0.0)
    recent.is_open = False
    recent.add(numbered(2), now=0.0)
    assert held(recent) == []
    recent.is_open = True
    recent.add(numbered(3), now=0.0)
    assert held(recent) == [3]
