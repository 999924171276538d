"""The blocks that `make demo-vllm` drives."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.demo_vllm import workload

KINDS = ("a", "b", "c", "d")
SERVED = {kind: [f"{kind}{number}" for number in range(24)] for kind in KINDS}


def block(seed=0, rate=5.0, in_flight=4, seconds=6.0):
    return workload.block(SERVED, rate, in_flight, seconds, (48, 96), seed)


def test_the_seed_decides_everything():
    assert block(3) == block(3)
    assert block(3) != block(4)


def test_arrivals_are_poisson_on_top_of_a_steady_state():
    blocks = [block(seed) for seed in range(300)]
    arrived = [sum(ask.at > 0 for ask in asks) for asks in blocks]
    assert np.mean(arrived) == pytest.approx(30, rel=0.05)
    assert np.var(arrived) == pytest.approx(30, rel=0.25)
    assert {sum(ask.at == 0 for ask in asks) for asks in blocks} == {4}
    assert all(ask.at <= 6.0 for asks in blocks for ask in asks)


def test_lengths():
    early = [ask.max_tokens for seed in range(300) for ask in block(seed) if ask.at == 0]
    late = [ask.max_tokens for seed in range(300) for ask in block(seed) if ask.at > 0]
    assert (min(late), max(late)) == (48, 96)
    assert min(early) == 8
    assert np.mean(early) == pytest.approx(np.mean(late) / 2, rel=0.05)  # half is over, on average


def test_the_mix_is_skewed():
    kinds = Counter(ask.kind for seed in range(300) for ask in block(seed))
    found = [kinds[kind] / kinds.total() for kind in KINDS]
    assert found == pytest.approx(workload.shares(KINDS), abs=0.02)
    assert found == sorted(found, reverse=True)


def test_no_prompt_twice_in_a_block():
    prompts = Counter(ask.prompt for ask in block(rate=8.0))
    assert max(prompts.values()) == 1


def test_the_four_kinds_are_of_the_ten():
    assert set(workload.FEW) < set(workload.MIXED)
    assert len(workload.MIXED) == 10
