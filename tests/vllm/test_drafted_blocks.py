"""Drafts that vLLM rejects leave the counts of their blocks, and nothing else does."""

import numpy as np
from eldr_vllm.worker.drafted_blocks import DraftedBlocks
from eldr_vllm.worker.signature_cache import SignatureCache
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE, LAYERS, EXPERTS, TOP_K, DRAFTS = 4, 2, 16, 2, 3


def picks(rng, tokens):
    return rng.random((tokens, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K]


def counted(experts):
    counts = np.zeros((LAYERS, EXPERTS), np.int64)
    for row in experts:
        np.add.at(counts, (np.arange(LAYERS)[:, None], row), 1)
    return counts


@settings(max_examples=150, deadline=None)
@given(
    sequences=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    steps=st.lists(st.lists(st.integers(0, DRAFTS), min_size=4, max_size=4), max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_only_what_stands_is_counted(sequences, steps, seed):
    """Each sequence has a prompt; each step computes a token and its drafts, and keeps some."""
    rng = np.random.default_rng(seed)
    length = SIZE * 20
    cache = SignatureCache(20 * len(sequences), SIZE, LAYERS, EXPERTS, TOP_K)
    blocks = DraftedBlocks(cache, SIZE, DRAFTS, len(sequences))
    stand = [list(picks(rng, prompt)) for prompt in sequences]
    for index, rows in enumerate(stand):
        blocks.add(index * length + np.arange(len(rows)), np.array(rows))
    for kept in steps:
        slots, experts = [], []
        for index, rows in enumerate(stand):
            computed = picks(rng, DRAFTS + 1)
            slots.append(index * length + len(rows) + np.arange(DRAFTS + 1))
            experts.append(computed)
            rows += list(computed[: kept[index] + 1])
        order = rng.permutation(len(stand) * (DRAFTS + 1))
        blocks.add(np.concatenate(slots)[order], np.concatenate(experts)[order])
    for index, rows in enumerate(stand):
        whole = len(rows) // SIZE
        total = cache.total(index * 20 + np.arange(whole), whole * SIZE)
        np.testing.assert_array_equal(total.counts, counted(rows[: whole * SIZE]))
        assert total.unknown_tokens == 0


def test_what_is_written_again_beyond_a_steps_drafts_is_unknown():
    rng = np.random.default_rng(0)
    cache = SignatureCache(4, SIZE, LAYERS, EXPERTS, TOP_K)
    blocks = DraftedBlocks(cache, SIZE, 1, 1)
    for slot in range(4):
        blocks.add(np.array([slot]), picks(rng, 1))
    blocks.add(np.array([1]), picks(rng, 1))
    assert cache.total([0], SIZE).unknown_tokens == SIZE


def test_a_block_of_other_content_loses_nothing():
    rng = np.random.default_rng(0)
    cache = SignatureCache(4, SIZE, LAYERS, EXPERTS, TOP_K)
    blocks = DraftedBlocks(cache, SIZE, 1, 1)
    full = picks(rng, SIZE)
    blocks.add(np.arange(SIZE), full)
    code = cache.code(0)
    blocks.add(np.array([4, 5]), picks(rng, 2))
    blocks.add(np.array([6, 7]), picks(rng, 2))
    cache.restore(1, code)
    blocks.add(np.array([7]), picks(rng, 1))  # not what the block was restored with
    assert cache.total([1], SIZE).unknown_tokens == SIZE
    np.testing.assert_array_equal(cache.total([0], SIZE).counts, counted(full))


def test_drafts_behind_a_prompt_are_not_the_prompts():
    rng = np.random.default_rng(0)
    cache = SignatureCache(4, SIZE, LAYERS, EXPERTS, TOP_K)
    blocks = DraftedBlocks(cache, SIZE, 2, 1)
    blocks.add(np.arange(SIZE), picks(rng, SIZE))
    last = picks(rng, 3)  # a prompt's fifth token, and two drafts
    blocks.add(np.array([4, 5, 6]), last, ends=[4])
    assert cache.total([0, 1], SIZE + 1).unknown_tokens == 0
    blocks.add_behind()
    blocks.add(np.array([6, 7]), stand := picks(rng, 2))  # the second one was rejected
    total = cache.total([1], SIZE)
    np.testing.assert_array_equal(total.counts, counted([*last[:2], *stand]))
