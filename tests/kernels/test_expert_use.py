"""Unions of predicted experts: exact to add and take out, near to the product of probabilities."""

import numpy as np
import pytest

from eldr_service.kernels import (
    add_terms,
    add_use,
    expected_active,
    growth,
    pack_use,
    unpack_counts,
)

EDGES = np.array([0.15, 0.4, 0.75, 1.25, 2.0, 3.2, 5.5], np.float32)


def as_packed(use):
    """Each as the mean of its range."""
    ranges = np.searchsorted(EDGES * use.mean(), use)
    means = np.bincount(ranges, use) / np.maximum(np.bincount(ranges), 1)
    return means[ranges]


def test_what_is_added_is_taken_out_exactly():
    rng = np.random.default_rng(0)
    sums, unused = np.zeros(50, np.int32), np.full(50, 127, np.int8)
    halved = unused.copy()
    requests = [rng.random(50).astype(np.float32) ** 3 for _ in range(30)]
    packed = [pack_use(request, request) for request in requests]
    for i, each in enumerate(packed):
        active = add_use(each, 1 + i % 3, 0.5, sums, unused, halved)
    requests = [as_packed(request) for request in requests]
    left = np.prod([(1 - r.astype(float)) ** (1 + i % 3) for i, r in enumerate(requests)], axis=0)
    np.testing.assert_allclose(unused / 127, left, atol=0.0045)
    np.testing.assert_allclose(halved / 127, np.sqrt(left), atol=0.0045)
    assert active == pytest.approx((1 - left).sum(), abs=2e-3)
    for i in rng.permutation(30):
        active = add_use(packed[i], -(1 + i % 3), 0.5, sums, unused, halved)
    assert active == 0
    assert not sums.any()
    assert (unused == 127).all()
    assert (halved == 127).all()


def test_sums_alone_count_the_same_experts():
    rng = np.random.default_rng(3)
    batches, unused = np.zeros((3, 6_144), np.int32), np.full((2, 6_144), 127, np.int8)
    sums = np.zeros(6_144, np.int32)
    packed = [pack_use(use, use) for use in rng.random((9, 6_144)).astype(np.float32) ** 4]
    for i, each in enumerate(packed):
        active = add_use(each, 1 + i % 3, 1.0, sums, *unused)
        add_terms(each, 1 + i % 3, batches[2], batches[i % 2])
    np.testing.assert_array_equal(batches[2], sums)
    np.testing.assert_array_equal(batches[0] + batches[1], sums)
    found = expected_active(batches, np.array([2, 0, 1]))
    assert found[0] == pytest.approx(active, rel=1e-6)
    assert (found[1:] < active).all()
    for i, each in enumerate(packed):
        add_terms(each, -(1 + i % 3), batches[2], batches[i % 2])
    assert not batches.any()
    assert (expected_active(batches, np.arange(3)) == 0).all()


def test_terms_of_impossible_probabilities_are_those_of_the_nearest_possible():
    given = np.array([-0.5, 0.0, 1.5, 1.5], np.float32)
    terms = pack_use(given, given)[:16].view(np.uint16)
    assert set(terms) == {0, round(-np.log(1e-6) * 2048)}


def test_packed_experts_stand_for_the_mean_of_their_range():
    rng = np.random.default_rng(2)
    for n in (1, 7, 8, 50, 6_144):
        use = rng.random(n).astype(np.float32) ** 4
        counts = rng.integers(0, 100_000, n)
        packed = pack_use(use, counts.astype(np.float32))
        assert len(packed) == 48 + -(-n // 8) * 3
        terms, shares = packed[:16].view(np.uint16), packed[16:48].view(np.float32)
        ranges = np.searchsorted(EDGES * use.mean(), use)
        for one in set(ranges):
            ours = ranges == one
            assert terms[one] == pytest.approx(-np.log1p(-use[ours].mean()) * 2048, abs=0.51)
            assert shares[one] == pytest.approx(counts[ours].mean(), rel=1e-5)
        np.testing.assert_array_equal(
            unpack_counts(packed, n), np.rint(shares)[ranges].astype(np.uint32)
        )


def test_growth_is_what_nobody_uses_yet():
    rng = np.random.default_rng(1)
    unused = rng.integers(0, 128, (4, 9_000)).astype(np.int8)  # more than a block
    new = rng.random(9_000).astype(np.float32)
    rows = np.array([2, 0, 2])
    np.testing.assert_allclose(growth(unused, rows, new), (unused / 127 @ new)[rows], rtol=1e-4)


def test_lengths_that_do_not_fit_are_refused():
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="as many experts"):
        add_use(pack_use(ones, ones), 1, 1.0, np.zeros(9, np.int32), *np.ones((2, 9), np.int8))
    with pytest.raises(ValueError, match="equally long"):
        add_terms(pack_use(ones, ones), 1, np.zeros(3, np.int32), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="below the number of rows"):
        expected_active(np.zeros((1, 3), np.int32), np.ones(1, np.int64))
    with pytest.raises(ValueError, match="equally long"):
        pack_use(ones, np.ones(4, np.float32))
    with pytest.raises(ValueError, match="as many experts"):
        unpack_counts(pack_use(ones, ones), 9)
    with pytest.raises(ValueError, match="as long as a row"):
        growth(np.ones((1, 4), np.int8), np.zeros(1, np.int64), ones)
    with pytest.raises(ValueError, match="rows"):
        growth(np.ones((1, 3), np.int8), np.ones(1, np.int64), ones)
