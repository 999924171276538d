"""The matrix's comparison tells right counts from wrong ones."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.engines.capture_matrix.comparison import (
    DIFFERS,
    EXACT,
    NONE,
    UNKNOWN,
    Log,
    judge_prompt,
    judge_release,
)

LAYERS, EXPERTS, TOP_K = 2, 6, 2
TOKENS = [7, 8, 9, 10, 11]  # the last two are the answer


def experts_of(tokens):
    """Of each token by its number: [tokens, layers, top_k]."""
    picks = [[(t + layer) % EXPERTS, (t + layer + 2) % EXPERTS] for t in tokens for layer in (0, 1)]
    return np.array(picks).reshape(len(tokens), LAYERS, TOP_K)


def counts_of(tokens):
    counts = np.zeros((LAYERS, EXPERTS), np.int64)
    for picks in experts_of(tokens):
        np.put_along_axis(counts, picks, np.take_along_axis(counts, picks, 1) + 1, 1)
    return counts


def told(counts, num_tokens, unknown=0):
    return counts, SimpleNamespace(num_tokens=num_tokens, unknown_tokens=unknown)


@pytest.fixture
def log(tmp_path):
    """Two prompts in chunks, one from the other's cache; a draft that was rejected."""
    entries = [
        ("a-0123abcd", 0, [], experts_of([7, 8])),
        ("a-0123abcd", 2, [], experts_of([9])),
        ("b-0123abcd", 2, [], experts_of([3])),
        ("a-0123abcd", 3, [6], experts_of([10, 6])),
        ("a-0123abcd", 4, [], experts_of([11])),
    ]
    with (tmp_path / "1.pickle").open("wb") as file:
        for entry in entries:
            pickle.dump(entry, file)
    return Log(tmp_path, [("a", TOKENS), ("b", [7, 8, 3])])


def test_right_counts_are_exact(log):
    assert judge_prompt(log, told(counts_of([7, 8, 9]), 3), TOKENS, 3) == EXACT
    assert judge_prompt(log, told(counts_of([7, 8, 3]), 3), [7, 8, 3], 3) == EXACT
    assert judge_release(log, told(counts_of([10]), 1), TOKENS, 3) == EXACT
    assert judge_release(log, told(counts_of([10, 11]), 2), TOKENS, 3) == EXACT


@pytest.mark.parametrize("tokens", [[7, 8], [7, 8, 8], [7, 8, 9, 10], [0, 0, 0]])
def test_wrong_counts_of_a_prompt_differ(log, tokens):
    assert judge_prompt(log, told(counts_of(tokens), 3), TOKENS, 3) == DIFFERS


@pytest.mark.parametrize(("tokens", "count"), [([6], 1), ([10, 6], 2), ([10, 6, 11], 3), ([], 0)])
def test_rejected_drafts_and_missing_tokens_differ(log, tokens, count):
    assert judge_release(log, told(counts_of(tokens), count), TOKENS, 3) == DIFFERS


def test_what_was_not_told(log):
    assert judge_prompt(log, None, TOKENS, 3) == NONE
    assert judge_prompt(log, told(counts_of([7, 8]), 2, unknown=1), TOKENS, 3) == UNKNOWN


def test_a_prefix_may_be_rounded_to_other_experts_but_to_no_third(tmp_path):
    with (tmp_path / "1.pickle").open("wb") as file:
        for token in (7, 8):  # what one token went to in two batches
            pickle.dump(("a-0123abcd", 0, [], experts_of([token])), file)
    log = Log(tmp_path, [("a", [7])])
    assert log.rounded == 1
    for token, verdict in ((7, EXACT), (8, EXACT), (9, DIFFERS)):
        assert judge_prompt(log, told(counts_of([token]), 1), [7], 1) == verdict
