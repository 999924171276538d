import numpy as np
import pytest
from scipy import stats

from eldr_service.lab.simulation.comparison import COMPARED, changes, over_seeds, student_t


def figures(tpot, experts=10.0):
    return {name: experts if name == "active_experts" else tpot for name in COMPARED}


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 99])
def test_students_quantile(degrees):
    assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees))
    assert student_t(degrees, 0.8) == pytest.approx(stats.t.ppf(0.9, degrees))


def test_changes_are_paired_and_against_the_best_by_each_figure():
    seeds = {
        "round-robin": [figures(10.0, 8.0), figures(20.0, 8.0)],
        "random:seed=3": [figures(12.0, 6.0), figures(22.0, 6.0)],
        "locality-band:tau=0.2": [figures(9.0, 6.0), figures(19.0, 3.0)],
    }
    found = {(c.policy, c.figure): c for c in changes(seeds)}
    band = found["locality-band:tau=0.2", "tpot_ms.p50"]
    assert band.best_load_only == "round-robin"
    relative = np.array([-0.1, -0.05])
    assert band.relative == pytest.approx(relative.mean())
    expected = stats.t.interval(0.95, 1, relative.mean(), stats.sem(relative))
    assert band.interval == pytest.approx(expected)
    experts = found["locality-band:tau=0.2", "active_experts"]
    assert (experts.best_load_only, experts.relative) == ("random:seed=3", pytest.approx(-0.25))
    assert ("round-robin", "tpot_ms.p50") not in found
    assert found["random:seed=3", "tpot_ms.p50"].relative == pytest.approx((0.2 + 0.1) / 2)


def test_one_seed_has_no_interval_and_no_rival_no_change():
    assert changes({"locality": [figures(1.0)]}) == []
    (first, *_) = changes({"random": [figures(2.0)], "locality": [figures(1.0)]})
    assert (first.relative, first.interval) == (-0.5, None)


def test_over_seeds():
    each = [{"tpot_ms.p50": 1.0, "requests": 3}, {"tpot_ms.p50": 3.0, "requests": 4}]
    assert over_seeds(each) == {"tpot_ms.p50": 2.0, "requests": 7}
