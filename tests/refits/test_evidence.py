"""Rolling back needs evidence: drawn step reports, better, alike and worse."""

import numpy as np
import pytest

from eldr_service.core.worker import StepReport
from eldr_service.refits.evidence import worse


def reports(n, seed, *, experts=1.0, seconds=1.0, batches=(4, 40), noise=0.08):
    """Reports whose experts and step times grow with the batch, as real ones do, with noise."""
    rng = np.random.default_rng(seed)
    batch = rng.uniform(*batches, size=n)
    touched = 128 * (1 - (1 - 8 / 128) ** batch) * experts * np.exp(rng.normal(0, noise, n))
    step = (5e-3 + 2e-4 * touched) * seconds * np.exp(rng.normal(0, noise, n))
    return [StepReport(*map(float, one)) for one in zip(batch, touched, step, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_alike_is_left_alone_at_other_batch_sizes_too(seed):
    assert worse(reports(400, seed), reports(300, seed + 100)) == ""
    assert worse(reports(400, seed), reports(300, seed + 100, batches=(12, 40))) == ""


@pytest.mark.parametrize("seed", range(20))
def test_what_is_worse_is_found(seed):
    before = reports(400, seed)
    assert worse(before, reports(300, seed + 100, experts=1.1)) == "active experts"
    assert worse(before, reports(300, seed + 100, seconds=1.1)) == "step time"
    assert worse(before, reports(300, seed + 100, experts=0.9)) == ""


def test_there_must_be_enough_of_them():
    assert worse(reports(400, 0), reports(63, 1, experts=2.0)) == ""
    assert worse(reports(63, 0), reports(400, 1, experts=2.0)) == ""
    unlike = reports(400, 1, experts=2.0, batches=(100, 200))
    assert worse(reports(400, 0), unlike) == ""


def test_what_workers_do_not_report_is_unknown():
    def silent(n, seed, **how):
        return [one._replace(active_experts=0.0) for one in reports(n, seed, **how)]

    assert worse(silent(400, 0), silent(300, 1)) == ""
    assert worse(silent(400, 0), silent(300, 1, seconds=1.2)) == "step time"
