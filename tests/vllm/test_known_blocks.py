"""Counts of blocks that left the KV cache come back with their KV, and only with theirs."""

import numpy as np
import pytest
from eldr_vllm.worker import known_blocks
from eldr_vllm.worker.known_blocks import KnownBlocks
from eldr_vllm.worker.signature_cache import SignatureCache

BLOCKS, SIZE, LAYERS, EXPERTS, TOP_K = 6, 4, 3, 16, 2


@pytest.fixture
def cache():
    return SignatureCache(BLOCKS, SIZE, LAYERS, EXPERTS, TOP_K)


@pytest.fixture
def known(cache):
    return KnownBlocks(cache, BLOCKS)


def compute(cache, known, block, content, seed, tokens=SIZE):
    """A step that writes a block, as the worker's side does it."""
    rng = np.random.default_rng(seed)
    experts = rng.random((tokens, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K]
    known.begin_anew([block])
    cache.add(np.arange(tokens) + block * SIZE, experts)
    if tokens == SIZE:
        known.complete([(block, content)])


def test_a_block_that_comes_back_elsewhere(cache, known):
    compute(cache, known, 0, b"x", seed=1)
    compute(cache, known, 1, b"y", seed=2)
    before = cache.total([0, 1], 2 * SIZE)
    for block in (0, 1):
        compute(cache, known, block, b"other", seed=3)
    known.fill([(4, b"x"), (2, b"y")])
    after = cache.total([4, 2], 2 * SIZE)
    assert (after.num_tokens, after.unknown_tokens) == (2 * SIZE, 0)
    np.testing.assert_array_equal(after.counts, before.counts)
    # What is written behind a restored block counts on.
    compute(cache, known, 3, b"z", seed=4, tokens=2)
    assert cache.total([4, 2, 3], 2 * SIZE + 2).num_tokens == 2 * SIZE + 2


@pytest.mark.parametrize("content", [b"never seen", None])
def test_other_content_is_unknown(cache, known, content):
    compute(cache, known, 0, b"x", seed=1)
    compute(cache, known, 0, b"y", seed=2)
    known.fill([(0, content)])
    assert cache.total([0], SIZE).num_tokens == 0


def test_a_block_that_was_not_captured_rightly_is_not_remembered(cache, known):
    compute(cache, known, 0, b"x", seed=1)
    cache.mark_unknown([0])  # as after a failed step
    compute(cache, known, 0, b"y", seed=2)
    known.fill([(1, b"x")])
    assert cache.total([1], SIZE).num_tokens == 0


def test_a_fill_keeps_what_it_overwrites(cache, known):
    compute(cache, known, 0, b"x", seed=1)
    known.fill([(0, b"y")])
    known.fill([(3, b"x")])
    assert cache.total([3], SIZE).num_tokens == SIZE
    known.fill([(3, b"x")])  # told twice
    assert cache.total([3], SIZE).num_tokens == SIZE


def test_the_oldest_are_forgotten(cache, known, monkeypatch):
    monkeypatch.setattr(known_blocks, "REMEMBERED", 1)
    known = KnownBlocks(cache, BLOCKS)
    for number in range(BLOCKS + 2):
        compute(cache, known, 0, str(number).encode(), seed=number)
    known.fill([(1, b"0")])
    known.fill([(2, b"1")])
    assert [cache.total([block], SIZE).num_tokens for block in (1, 2)] == [0, SIZE]
