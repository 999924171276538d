"""What is asked, and in which order: the same for every policy of a block."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.engines.tiny_moe import texts

MIXED = texts.KINDS
FEW = ("python", "json", "german", "japanese")
"""The upper end: kinds as far apart as can be, as many as there are decode engines."""

PROMPT_BYTES = 64
"""Short: with experts this wide a prefill is dear, and it competes with the decodes for cores."""

PROMPTS = 24
"""Of each kind and part: what the smallest part has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request.

    What a block cuts off is `carried` into the policy's next block, with what is left to write.
    """

    kind: str
    prompt: str
    max_tokens: int
    seed: int
    carried: bool = False


def prompts(kinds: tuple[str, ...], part: str) -> dict[str, list[str]]:
    """Pieces of the files of a part ("fit" or "serve", which share none), by kind."""
    return {kind: _prompts(kind, part) for kind in kinds}


@functools.cache
def _prompts(kind: str, part: str) -> list[str]:
    # The first half of each, which is what `texts` has made sure that training never saw.
    some = texts.prompts(kind, part, [2 * PROMPT_BYTES] * PROMPTS)
    return [text.encode()[:PROMPT_BYTES].decode(errors="ignore") for text in some]


def shares(kinds: tuple[str, ...]) -> np.ndarray:
    """Of many kinds a skewed mix, in proportion to 1 / sqrt(rank); few, the upper end, are even."""
    ranks = np.arange(1, len(kinds) + 1)
    weights = 1 / np.sqrt(ranks) if len(kinds) > len(FEW) else np.ones(len(kinds))
    return weights / weights.sum()


def coming(served: dict[str, list[str]], tokens: tuple[int, int], seed: int) -> Iterator[Ask]:
    """Requests without end, their answers of evenly drawn length.

    No prompt is asked twice while others of its kind are left.
    """
    rng = np.random.default_rng(seed)
    kinds = tuple(served)
    lines = {kind: itertools.cycle(rng.permutation(some).tolist()) for kind, some in served.items()}
    while True:
        kind = kinds[rng.choice(len(kinds), p=shares(kinds))]
        yield Ask(
            kind=kind,
            prompt=next(lines[kind]),
            max_tokens=int(rng.integers(*tokens, endpoint=True)),
            seed=int(rng.integers(1 << 31)),
        )


def standing(
    served: dict[str, list[str]], in_flight: int, tokens: tuple[int, int], seed: int
) -> list[Ask]:
    """What a steady state has in flight: a part of each answer is left, evenly drawn."""
    rng = np.random.default_rng([seed, 1])
    return [
        replace(ask, max_tokens=max(round(ask.max_tokens * rng.uniform()), 8), carried=True)
        for ask in itertools.islice(coming(served, tokens, seed), in_flight)
    ]
