"""What is asked, and when: the same for every policy of a block."""

import functools
from dataclasses import dataclass

import numpy as np

from benchmarks.tiny_moe import texts

MIXED = texts.KINDS
FEW = ("python", "json", "german", "japanese")
"""The upper end: kinds as far apart as can be, as many as there are decode engines."""

PROMPT_BYTES = 64
"""Short: with experts this wide a prefill is dear, and it competes with the decodes for cores."""

PROMPTS = 24
"""Of each kind and part: what the smallest part has."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; `at` is in seconds from the block's beginning."""

    at: float
    kind: str
    prompt: str
    max_tokens: int
    seed: int


def prompts(kinds: tuple[str, ...], part: str) -> dict[str, list[str]]:
    """Pieces of the files of a part ("fit" or "serve", which share none), by kind."""
    return {kind: _prompts(kind, part) for kind in kinds}


@functools.cache
def _prompts(kind: str, part: str) -> list[str]:
    # The first half of each, which is what `texts` has made sure that training never saw.
    some = texts.prompts(kind, part, [2 * PROMPT_BYTES] * PROMPTS)
    return [text.encode()[:PROMPT_BYTES].decode(errors="ignore") for text in some]


def shares(kinds: tuple[str, ...]) -> np.ndarray:
    """The skewed mix: the kind at rank r has a share in proportion to 1 / sqrt(r)."""
    weights = 1 / np.sqrt(np.arange(1, len(kinds) + 1))
    return weights / weights.sum()


def block(
    served: dict[str, list[str]],
    rate: float,
    in_flight: int,
    seconds: float,
    tokens: tuple[int, int],
    seed: int,
) -> list[Ask]:
    """Poisson arrivals at `rate`, on top of what a steady state would have in flight already.

    Those `in_flight` come at once and have a part of their answers left, evenly drawn: so a short
    block needs no time to fill up. No prompt is asked twice in a block while others are left.
    """
    rng = np.random.default_rng(seed)
    kinds = tuple(served)
    arriving = np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))
    times = [0.0] * in_flight + arriving.tolist()
    lines = {kind: rng.permutation(len(some)).tolist() for kind, some in served.items()}
    asks = []
    for number, at in enumerate(times):
        kind = kinds[rng.choice(len(kinds), p=shares(kinds))]
        line = lines[kind]
        line.append(line.pop(0))
        length = float(rng.integers(*tokens, endpoint=True))
        if number < in_flight:
            length *= rng.uniform()
        asks.append(
            Ask(at, kind, served[kind][line[-1]], max(round(length), 8), int(rng.integers(1 << 31)))
        )
    return asks
