"""The requests and their order: the same for every policy of a block."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.engines.tiny_moe import texts

MIXED = texts.KINDS
FEW = ("python", "json", "german", "japanese")
"""The upper end: as many kinds as decode engines, as different as possible."""

PROMPT_BYTES = 64
"""Short: with experts this wide a prefill is costly, and competes with the decodes for cores."""

PROMPTS = 24
"""Per kind and part: as many as the smallest part has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request.

    A request cut off by a block's end is `carried` into the policy's next block, with the tokens
    left to generate.
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
    # The first half of each: `texts` ensures that training never saw it.
    some = texts.prompts(kind, part, [2 * PROMPT_BYTES] * PROMPTS)
    return [text.encode()[:PROMPT_BYTES].decode(errors="ignore") for text in some]


def shares(kinds: tuple[str, ...]) -> np.ndarray:
    """Shares of kinds: in proportion to 1 / sqrt(rank); equal for few kinds, the upper end."""
    ranks = np.arange(1, len(kinds) + 1)
    weights = 1 / np.sqrt(ranks) if len(kinds) > len(FEW) else np.ones(len(kinds))
    return weights / weights.sum()


def coming(served: dict[str, list[str]], tokens: tuple[int, int], seed: int) -> Iterator[Ask]:
    """Endless requests, with answer lengths drawn uniformly.

    No prompt is used twice while others of its kind are left.
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
    """Requests in flight in a steady state: the rest of each answer is drawn uniformly."""
    rng = np.random.default_rng([seed, 1])
    return [
        replace(ask, max_tokens=max(round(ask.max_tokens * rng.uniform()), 8), carried=True)
        for ask in itertools.islice(coming(served, tokens, seed), in_flight)
    ]
