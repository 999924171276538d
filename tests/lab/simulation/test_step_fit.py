"""A step's cost from recorded steps, where they tell it."""

import numpy as np
import pytest
from engine_recording import STEP_US, write

from eldr_service.lab.simulation.cost import load_cost
from eldr_service.lab.simulation.step_fit import fit_steps

FIXED, SEQUENCE, EXPERT = 900.0, 30.0, 5.0


def steps(n=4_000, noise=0.1, seed=0, batch=None):
    """Batches that vary, and experts that vary with them and beside them."""
    rng = np.random.default_rng(seed)
    batch = rng.integers(1, 33, n) if batch is None else np.full(n, batch)
    active = np.round(48 * (128 * (1 - (1 - 8 / 128) ** batch) * rng.uniform(0.7, 1.0, n)))
    us = FIXED + SEQUENCE * batch + EXPERT * active
    seconds = 1e-6 * us * rng.lognormal(0.0, noise, n)
    return seconds, np.column_stack([batch, batch, 500 * batch, active]).astype(np.int64)


def test_costs_are_found():
    fit = fit_steps(*steps())
    low, high = fit.interval_us
    assert low < EXPERT < high
    assert high - low < 0.1 * EXPERT
    assert fit.per_sequence_us == pytest.approx(SEQUENCE, abs=15)
    assert fit.r_squared > 0.9
    assert fit.median_error == pytest.approx(0.067, abs=0.01)


def test_outliers_and_steps_that_prefill_too_are_left_out():
    seconds, sizes = steps()
    seconds[::50] *= 20
    sizes[1::50, 1] += 500
    seconds[1::50] *= 3
    fit = fit_steps(seconds, sizes)
    assert fit.per_expert_us == pytest.approx(EXPERT, rel=0.05)
    assert 75 <= fit.outliers <= 85
    assert fit.steps + fit.outliers == 3_920


def test_no_cost_is_negative():
    seconds, sizes = steps()
    fit = fit_steps(seconds - 1.2e-3 * seconds.min() / seconds.max(), sizes)
    assert min(fit.fixed_us, fit.per_sequence_us, fit.per_expert_us) >= 0


def test_a_batch_size_that_never_varies_is_no_obstacle():
    assert fit_steps(*steps(batch=16)).per_expert_us == pytest.approx(EXPERT, rel=0.1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n": 150}, "150 recorded steps only decode"),
        ({"n": 300, "noise": 2.0}, "do not determine an expert's cost"),
    ],
)
def test_data_that_do_not_tell(changed, said):
    with pytest.raises(ValueError, match=said):
        fit_steps(*steps(**changed))


def test_experts_that_only_follow_the_batch():
    seconds, sizes = steps()
    sizes[:, 3] = 48 * 8 * sizes[:, 0]
    with pytest.raises(ValueError, match="under varying load"):
        fit_steps(seconds, sizes)
    with pytest.raises(ValueError, match="under varying load"):
        fit_steps(*steps(batch=1)[:1], np.tile([1, 1, 500, 384], (4_000, 1)))


def test_from_a_folder(tmp_path):
    write(tmp_path)
    cost = load_cost(str(tmp_path))
    assert cost.name == "the recorded steps of m"
    assert cost.per_expert_us == pytest.approx(STEP_US[2], rel=0.1)
    assert "µs per expert (95%" in cost.source
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="no recordings; engines write"):
        load_cost(str(other))
