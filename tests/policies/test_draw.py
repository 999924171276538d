import numpy as np
import pytest
from fleet_snapshot import evenness

from eldr_service.policies.draw import uniform_index


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_draws_are_uniform(n, seed):
    counts = np.bincount([uniform_index(seed, i, n) for i in range(200 * n)], minlength=n)
    assert len(counts) == n
    assert n == 1 or evenness(counts) < 3


@pytest.mark.parametrize(
    "shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["seed", "number", "stream"]
)
def test_neighbours_in_any_argument_are_independent(shift):
    pairs = [
        6 * uniform_index(0, number, 6)
        + uniform_index(shift[0], number + shift[1], 6, stream=shift[2])
        for number in range(20_000)
    ]
    assert evenness(np.bincount(pairs, minlength=36)) < 2


def test_a_draw_is_the_same_every_time_and_everywhere():
    """Changing these numbers changes what every replayed decision log says."""
    assert [uniform_index(7, number, 1000) for number in range(5)] == [609, 100, 292, 258, 381]
