"""What it costs to find the workers that hold a prompt's prefix, beside asking block by block.

    python -m benchmarks.speed.held_prefixes [--turns N]

A prompt of 4,096 blocks of 16 tokens; 24 workers each hold a prefix of it, of random length, and
other prompts. *lookup*: how much of it each worker holds, when all do and when none does.
*booking*: recording it when it is booked on one of them. The baseline looks up each block in one
set per worker. They take turns; medians. Writes build/bench/held_prefixes.json.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.written import written
from eldr_service.core.held_prefixes import HeldPrefixes

WORKERS, BLOCKS, BLOCK_TOKENS, CALLS = 24, 4_096, 16, 50


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begun) / CALLS


def block_by_block(held: list[set[int]], prompt: tuple[int, ...]) -> list[int]:
    """How many blocks each worker holds, looked up one by one."""
    return [next((i for i, b in enumerate(prompt) if b not in own), len(prompt)) for own in held]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.held_prefixes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    draw = random.Random(0)

    def prompt() -> tuple[int, ...]:
        return tuple(draw.getrandbits(64) for _ in range(BLOCKS))

    asked, unknown = prompt(), prompt()
    held = HeldPrefixes()
    sets: list[set[int]] = []
    for row in range(WORKERS):
        own = asked[: draw.randrange(256, BLOCKS)]
        for hashes in (prompt(), own):
            held.hold(row, hashes, BLOCK_TOKENS, 0)
        sets.append(set(own))
    assert len(held.of(asked, BLOCK_TOKENS)) == WORKERS
    tried: dict[str, Callable[[], object]] = {
        "block by block, all workers": lambda: block_by_block(sets, asked),
        "lookup, all workers": lambda: held.of(asked, BLOCK_TOKENS),
        "lookup, none": lambda: held.of(unknown, BLOCK_TOKENS),
        "booking": lambda: held.hold(3, asked, BLOCK_TOKENS, 0),
    }
    turns: dict[str, list[float]] = {name: [] for name in tried}
    for _ in range(options.turns):
        for name, call in tried.items():
            turns[name].append(1e6 * seconds(call))
    table = Table("", "µs", title=f"{BLOCKS:,} blocks, {WORKERS} workers")
    found = {name: float(np.median(each)) for name, each in turns.items()}
    for name, each in found.items():
        table.add_row(name, f"{each:.1f}")
    Console().print(table)
    written("held_prefixes", {"us": found, "turns": turns})


if __name__ == "__main__":
    main()
