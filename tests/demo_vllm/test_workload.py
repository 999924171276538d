"""The blocks that `make demo-vllm` drives."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.demos.demo_vllm import workload

KINDS = ("a", "b", "c", "d", "e")
SERVED = {kind: [f"{kind}{number}" for number in range(24)] for kind in KINDS}


def arrivals(seed=0, rate=5.0, seconds=6.0):
    return workload.arrivals(SERVED, rate, seconds, (48, 96), seed)


def test_the_seed_decides_everything():
    assert arrivals(3) == arrivals(3)
    assert arrivals(3) != arrivals(4)


def test_arrivals_are_poisson():
    arrived = [len(arrivals(seed)) for seed in range(300)]
    assert np.mean(arrived) == pytest.approx(30, rel=0.05)
    assert np.var(arrived) == pytest.approx(30, rel=0.25)
    assert all(0 <= ask.at <= 6.0 for ask in arrivals())


def test_lengths():
    lengths = [ask.max_tokens for seed in range(300) for ask in arrivals(seed)]
    assert (min(lengths), max(lengths)) == (48, 96)
    standing = workload.standing(SERVED, 3000, (48, 96), 0)
    assert {ask.at for ask in standing} == {0.0}
    left = [ask.max_tokens for ask in standing]
    assert min(left) == 8
    assert np.mean(left) == pytest.approx(np.mean(lengths) / 2, rel=0.05)  # half is over


def test_the_mix_is_skewed():
    kinds = Counter(ask.kind for seed in range(300) for ask in arrivals(seed))
    found = [kinds[kind] / kinds.total() for kind in KINDS]
    assert found == pytest.approx(workload.shares(KINDS), abs=0.02)
    assert found == sorted(found, reverse=True)


def test_few_kinds_are_even():
    assert workload.shares(workload.FEW).tolist() == [0.25] * 4


def test_no_prompt_twice_in_a_block():
    prompts = Counter(ask.prompt for ask in arrivals(rate=8.0))
    assert max(prompts.values()) == 1


def test_the_four_kinds_are_of_the_ten():
    assert set(workload.FEW) < set(workload.MIXED)
    assert len(workload.MIXED) == 10
