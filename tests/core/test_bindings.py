from hypothesis import given, settings
from hypothesis import strategies as st

from eldr_service.core.bindings import Bindings


def used(bindings, slots):
    return sum(bool(bindings.workers(slot)) for slot in range(slots))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5),
    st.dictionaries(st.integers(0, 7), st.integers(0, 4)),
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 20)), max_size=40),
)
def test_every_slot_is_in_use_as_long_as_there_are_workers_enough(slots, wishes, moves):
    wishes = {row: slot % slots for row, slot in wishes.items()}
    bindings = Bindings.of(slots, range(6), wishes)
    bound = set(range(6))
    for joins, row, traffic in moves:
        bindings.placements[row % slots] += traffic
        if joins and row not in bound:
            vacant = [s for s in range(slots) if not bindings.workers(s)]
            busiest = max(
                bindings.placements[s] / (len(bindings.workers(s)) or 1) for s in range(slots)
            )
            slot = bindings.join(row)
            bound.add(row)
            sharing = len(bindings.workers(slot)) - 1
            assert slot in vacant or (not vacant and bindings.placements[slot] / sharing == busiest)
        elif not joins:
            bindings.leave(row)  # leaving twice is fine
            bound.discard(row)
        assert used(bindings, slots) == min(slots, len(bound))
        assert bindings.slot_of.keys() == bound
        assert all(row in bindings.workers(slot) for row, slot in bindings.slot_of.items())
        assert sum(len(bindings.workers(s)) for s in range(slots)) == len(bound)


@given(st.permutations(range(6)), st.integers(1, 6), st.booleans())
def test_rolling_restart_under_new_names(order, slots, leave_first):
    bindings = Bindings.of(slots, range(6), {})
    for row in order:
        if leave_first:
            bindings.leave(row)
        bindings.join(row + 100)
        bindings.leave(row)
        assert used(bindings, slots) == slots
    assert bindings.slot_of.keys() == {row + 100 for row in range(6)}


def test_joiners_spread_before_there_is_traffic():
    bindings = Bindings.of(3, range(9), {})
    assert [len(bindings.workers(slot)) for slot in range(3)] == [3, 3, 3]


def test_joiner_shares_the_slot_with_most_traffic_a_worker():
    bindings = Bindings.of(3, range(4), {0: 0, 1: 1, 2: 1, 3: 2})
    bindings.placements = [10, 18, 3]
    assert [bindings.join(row) for row in (4, 5)] == [0, 1]


def test_wishes_are_kept_and_vacancies_filled():
    bindings = Bindings.of(3, range(4), {3: 1, 2: 1})
    assert bindings.workers(1)[0] in (2, 3)
    assert bindings.slot_of == {2: 1, 3: 1, 0: 0, 1: 2}
    crowded = Bindings.of(3, range(3), {0: 1, 1: 1, 2: 1})
    assert sorted(crowded.slot_of.values()) == [0, 1, 2]
    assert crowded.workers(1) == (0,)
