"""Unions of predicted experts: exact to add and take out, near to the product of probabilities."""

import numpy as np
import pytest

from eldr_service.kernels import add_use, growth, use_terms


def test_what_is_added_is_taken_out_exactly():
    rng = np.random.default_rng(0)
    sums, unused = np.zeros(50, np.int32), np.full(50, 127, np.int8)
    requests = [rng.random(50).astype(np.float32) ** 3 for _ in range(30)]
    terms = [use_terms(request) for request in requests]
    for i, each in enumerate(terms):
        active = add_use(each, 1 + i % 3, sums, unused)
    left = np.prod([(1 - r.astype(float)) ** (1 + i % 3) for i, r in enumerate(requests)], axis=0)
    np.testing.assert_allclose(unused / 127, left, atol=0.0045)
    assert active == pytest.approx((1 - left).sum(), abs=2e-3)
    for i in rng.permutation(30):
        active = add_use(terms[i], -(1 + i % 3), sums, unused)
    assert active == 0
    assert not sums.any()
    assert (unused == 127).all()


def test_terms_of_impossible_probabilities_are_those_of_the_nearest_possible():
    given = np.array([-0.5, 0.0, 1.0, 1.5], np.float32)
    terms = use_terms(given)
    assert terms[0] == terms[1] == 0
    assert terms[2] == terms[3] == round(-np.log(1e-6) * 2048)


def test_growth_is_what_nobody_uses_yet():
    rng = np.random.default_rng(1)
    unused = rng.integers(0, 128, (4, 9_000)).astype(np.int8)  # more than a block
    new = rng.random(9_000).astype(np.float32)
    rows = np.array([2, 0, 2])
    np.testing.assert_allclose(growth(unused, rows, new), (unused / 127 @ new)[rows], rtol=1e-4)


def test_lengths_that_do_not_fit_are_refused():
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="equally long"):
        add_use(use_terms(ones), 1, np.zeros(4, np.int32), np.ones(3, np.int8))
    with pytest.raises(ValueError, match="as long as a row"):
        growth(np.ones((1, 4), np.int8), np.zeros(1, np.int64), ones)
    with pytest.raises(ValueError, match="rows"):
        growth(np.ones((1, 3), np.int8), np.ones(1, np.int64), ones)
