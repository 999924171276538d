"""The blocks that `make demo-vllm` drives."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from benchmarks.demos.demo_vllm import workload

KINDS = ("a", "b", "c", "d", "e")
SERVED = {kind: [f"{kind}{number}" for number in range(24)] for kind in KINDS}


def coming(seed=0, number=30):
    return list(islice(workload.coming(SERVED, (48, 96), seed), number))


def test_the_seed_decides_everything():
    assert coming(3) == coming(3)
    assert coming(3) != coming(4)


def test_lengths():
    lengths = [ask.max_tokens for seed in range(300) for ask in coming(seed)]
    assert (min(lengths), max(lengths)) == (48, 96)
    standing = workload.standing(SERVED, 3000, (48, 96), 0)
    assert all(ask.carried for ask in standing)
    left = [ask.max_tokens for ask in standing]
    assert min(left) == 8
    assert np.mean(left) == pytest.approx(np.mean(lengths) / 2, rel=0.05)  # half is over


def test_the_mix_is_skewed():
    kinds = Counter(ask.kind for seed in range(300) for ask in coming(seed))
    found = [kinds[kind] / kinds.total() for kind in KINDS]
    assert found == pytest.approx(workload.shares(KINDS), abs=0.02)
    assert found == sorted(found, reverse=True)


def test_few_kinds_are_even():
    assert workload.shares(workload.FEW).tolist() == [0.25] * 4


def test_no_prompt_twice_in_a_block():
    prompts = Counter(ask.prompt for ask in coming(number=48))
    assert max(prompts.values()) == 1


def test_the_four_kinds_are_of_the_ten():
    assert set(workload.FEW) < set(workload.MIXED)
    assert len(workload.MIXED) == 10
