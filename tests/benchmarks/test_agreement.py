"""How agreement with the paper is told from what a constant would reach."""

import math

import pytest

from benchmarks.policies.paper import agreement, commonest


def test_what_follows_the_paper_beats_a_constant():
    found = agreement([-0.05, -0.10, -0.15, -0.20], [-0.06, -0.11, -0.16, -0.21])
    assert found["correlation"] == pytest.approx(1)
    assert found["of ranks"] == pytest.approx(1)
    assert found["mean error"] == pytest.approx(0.01)
    # Each by the mean of the other three: off by 0.1, 0.1 / 3, 0.1 / 3 and 0.1.
    assert found["constant"] == pytest.approx((0.1 + 0.1 / 3) / 2)
    assert (found["points"], found["signs"], found["commonest sign"]) == (4, 4, 4)


def test_signs_alone_say_nothing():
    found = agreement([-0.05, -0.10, -0.15], [-0.15, -0.10, -0.05])
    assert found["signs"] == found["commonest sign"] == 3
    assert found["correlation"] == pytest.approx(-1)
    assert found["mean error"] > found["constant"] * 0.85


def test_a_constant_has_no_correlation():
    assert math.isnan(agreement([-0.1, -0.2], [-0.1, -0.1])["correlation"])


def test_the_commonest_order_of_each_pair():
    orders = {
        ("p50", "a", "b"): [True, True, False],
        ("p50", "a", "c"): [False],
        ("p99", "a", "b"): [True],
    }
    assert commonest(orders, "p50") == 3
