from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eldr_service.fitting.alignment import aligned


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_as_few_as_possible_move(num_new, num_old, data):
    slots = st.tuples(st.integers(0, num_new - 1), st.integers(0, num_old - 1))
    new, old = np.array(data.draw(st.lists(slots, min_size=1, max_size=40))).T
    order, carried = aligned(new, old, num_new, num_old)
    place = np.argsort(order)
    assert sorted(order) == list(range(num_new))
    goes_on = carried[carried >= 0]
    assert len(set(goes_on)) == len(goes_on) == min(num_new, num_old)
    for slot, at in enumerate(carried):  # under its own number, where there is such a number
        assert at in (-1, slot) or slot >= num_new
    stay = (place[new] == carried[old]).sum()
    wide = max(num_new, num_old)
    most = max(
        sum(match[n] == o for n, o in zip(new, old, strict=True))
        for match in permutations(range(wide), num_new)
    )
    assert stay == most


def test_the_same_partition_in_another_order_moves_nothing():
    old = np.repeat(np.arange(4), 5)
    shuffled = np.array([2, 0, 3, 1])
    order, carried = aligned(shuffled[old], old, 4, 4)
    assert order.tolist() == shuffled.tolist()
    assert carried.tolist() == [0, 1, 2, 3]
