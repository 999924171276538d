"""What is asked, and when: the same for every policy of a block."""

import functools
import itertools
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
    """One request; `at` is in seconds from the block's beginning.

    What a block cuts off is `carried` into the policy's next block, with what is left to write.
    """

    at: float
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


def arrivals(
    served: dict[str, list[str]], rate: float, seconds: float, tokens: tuple[int, int], seed: int
) -> list[Ask]:
    """Poisson arrivals at `rate`, their answers of evenly drawn length."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))
    return _asks(served, times.tolist(), tokens, rng)


def standing(
    served: dict[str, list[str]], in_flight: int, tokens: tuple[int, int], seed: int
) -> list[Ask]:
    """What a steady state would have in flight: a part of each answer is left, evenly drawn."""
    rng = np.random.default_rng(seed)
    return [
        replace(ask, max_tokens=max(round(ask.max_tokens * rng.uniform()), 8), carried=True)
        for ask in _asks(served, [0.0] * in_flight, tokens, rng)
    ]


def _asks(
    served: dict[str, list[str]],
    times: list[float],
    tokens: tuple[int, int],
    rng: np.random.Generator,
) -> list[Ask]:
    """No prompt is asked twice while others of its kind are left."""
    kinds = tuple(served)
    lines = {kind: itertools.cycle(rng.permutation(some).tolist()) for kind, some in served.items()}
    drawn = [kinds[i] for i in rng.choice(len(kinds), len(times), p=shares(kinds))]
    return [
        Ask(
            at=at,
            kind=kind,
            prompt=next(lines[kind]),
            max_tokens=int(rng.integers(*tokens, endpoint=True)),
            seed=int(rng.integers(1 << 31)),
        )
        for at, kind in zip(times, drawn, strict=True)
    ]
