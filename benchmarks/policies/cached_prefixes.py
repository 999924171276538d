"""What is it worth to place requests on decode workers that already hold part of their prompt?

    python -m benchmarks.policies.cached_prefixes [--seeds N] [--cell TEXT] [--way TEXT]

Agents' conversations in virtual time: each prompt is the previous one, its answer and 500 new
tokens; eight requests per conversation, eight seconds apart, 256 tokens each, on 16 workers. A
worker keeps prompts' blocks in its KV memory until others need the room; what it holds need not be
transferred. The router is given block hashes, and assumes that workers hold what it booked there. A
conversation's requests are recorded ones of one domain: of synthetic routing always, and of the
public recordings if ../shared/data is present.

Runs `marginal-cost` without a price per missing prompt token, at the price (2 µs to transfer it
over a fast link, 25 µs over a slow one, or 50 µs where replicas prefill for themselves), at half
and at twice the price; beside them load-only policies, and `cache-aware`: the longest prefix unless
loads differ much, as in SGLang's gateway.

*TOKEN* is what the price should improve: time from placement to last token, per generated token.
*KV* is the mean time of a transfer or prefill, *HELD* the share of prompt tokens already there.
Changes are against `marginal-cost` without the price, with 95% intervals from paired seeds. Writes
build/bench/cached_prefixes.json.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.shared_data import ACTIVATIONS
from benchmarks.written import written
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.lab.simulation.comparison import Margin
from eldr_service.lab.simulation.conversations import Conversations
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Delay, Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.fit import fit
from eldr_service.lab.simulation.result import Result
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.study import load_recorded, log_to_stderr
from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.policy import Policy, PolicyParameters
from eldr_service.policies.registry import create

WORKERS = 16
KV_TOKENS = 600_000  # about what an H200 has room for beside the weights of Qwen3-30B-A3B
CACHE_AWARE = "cache-aware"
PRICES = {
    "marginal-cost, unpriced": 0.0,
    "marginal-cost, half": 0.5,
    "marginal-cost": 1.0,
    "marginal-cost, twice": 2.0,
}
WAYS = {  # the price in microseconds per token, and where it is paid
    "2 µs transfer": (2.0, "transfer"),
    "25 µs transfer": (25.0, "transfer"),
    "50 µs prefill": (50.0, "prefill"),
}
UNPRICED = next(iter(PRICES))
POLICIES = ("round-robin", "join-shortest-queue", CACHE_AWARE, "locality-band", *PRICES)
COMPARED = ("token_ms", "tpot_ms.mean", "tpot_ms.p99", "kv_ms")
FIGURES = (*COMPARED, "cached_share")


@dataclass(frozen=True)
class Cell:
    """A recording, its cost model, requests per second."""

    name: str
    recording: Path
    cost: str
    rate: float


class CacheAware(Policy):
    """The eligible worker that holds most of the prompt, at least half; else the least loaded.

    Also the least loaded if loads differ by more than 8 sequences and 20%.
    """

    name = CACHE_AWARE
    description = "the longest prefix, within a limit on load"
    Parameters = PolicyParameters

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        held, loads = fleet.sequences, fleet.sequences[fleet.eligible]
        uneven = loads.max() - loads.min() > 8 and loads.max() > 1.2 * loads.min()
        if uneven or fleet.cached_tokens is None or request.prompt_tokens == 0:
            return Decision(fleet.least_loaded())
        cached = np.where(fleet.eligible, fleet.cached_tokens, -1)
        if cached.max() < 0.5 * request.prompt_tokens:
            return Decision(fleet.least_loaded())
        best = np.where(cached == cached.max(), held, np.iinfo(np.int64).max)
        return Decision(int(np.argmin(best)))


def policy_of(name: str, token_us: float) -> Policy:
    if name == CACHE_AWARE:
        return CacheAware()
    if name in PRICES:
        return create("marginal-cost", {"token_transfer_us": f"{PRICES[name] * token_us:g}"})
    return create(name, {})


def deployment_of(cell: Cell, way: str) -> Deployment:
    engine = Engine(built_in_costs()[cell.cost], kv_tokens=KV_TOKENS)
    token_us, paid = WAYS[way]
    delay = {paid: Delay(0.0, token_us * 1e-6)}
    return Deployment((engine,) * WORKERS, **delay, plain=paid == "prefill")


def figures_of(result: Result, token_us: float) -> dict[str, float]:
    missing_ms = (result.prompt_tokens - result.cached_tokens) * token_us * 1e-3
    token_ms = 1e3 * (result.end_s - result.placed_s) / result.tokens
    more = {"token_ms": float(token_ms.mean()), "kv_ms": float(missing_ms.mean())}
    return {name: (result.figures() | more)[name] for name in FIGURES}


def run_seed(
    cell: Cell, seed: int, ways: Sequence[str], duration_s: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by way and policy."""
    log_to_stderr()
    recording = load_recorded(cell.recording)
    requests = Conversations(duration_s, cell.rate).draw(seed)
    drawn = Workload.draw(recording, Traffic(1.0, 100.0), seed, drive_all=True)
    workload = replace(drawn, requests=requests)
    partition = fit(recording, workload.fitted, "auto", WORKERS, seed)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in ways:
        token_us, _ = WAYS[way]
        around = deployment_of(cell, way)
        found[way] = {
            name: figures_of(
                simulate(workload, policy_of(name, token_us), around, partition), token_us
            )
            for name in POLICIES
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.cached_prefixes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of arrivals")
    parser.add_argument("--cell", default="", metavar="TEXT", help="cells with this in their names")
    parser.add_argument("--way", default="", metavar="TEXT", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    ways = [way for way in WAYS if options.way in way]
    log_to_stderr()
    document: dict[str, Any] = {"how": vars(options), "cells": {}}
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory() as folder:
        synthetic = Path(folder, "synthetic.npz")
        SyntheticRouting(requests=512).generate().save(synthetic)
        gpt_oss, deepseek = ("gpt-oss-20b-topics", "deepseek-v2-lite-tasks")
        cells = [Cell("synthetic", synthetic, "gpt-oss-120b-h200", 150.0)]
        if ACTIVATIONS.is_dir():
            cells += [
                Cell(gpt_oss, ACTIVATIONS / f"{gpt_oss}.npz", "gpt-oss-120b-h200", 150.0),
                Cell(deepseek, ACTIVATIONS / f"{deepseek}.npz", "qwen3-30b-a3b-h200", 100.0),
            ]
        for cell in (each for each in cells if options.cell in each.name):
            with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
                run = partial(run_seed, cell, ways=ways, duration_s=options.duration)
                runs = list(pool.map(run, range(options.seeds)))
            document["cells"][cell.name] = show(console, cell, runs)
    written("cached_prefixes", document)


def show(console: Console, cell: Cell, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print a cell; returns its figures for programs."""
    title = f"{cell.name}, {WORKERS} workers, {cell.rate:g}/s: change against {UNPRICED}"
    table = Table("WAY", "POLICY", "TOKEN", "TPOT", "P99", "KV", "HELD", title=title)
    kept: dict[str, Any] = {}
    for way in runs[0]:
        values = {
            policy: {name: [run[way][policy][name] for run in runs] for name in FIGURES}
            for policy in POLICIES
        }
        for policy, own in values.items():
            margins = [Margin.of(own[name], values[UNPRICED][name]) for name in COMPARED]
            alone = [f"{np.mean(own[name]):.2f} ms" for name in COMPARED]
            shown = alone if policy == UNPRICED else map(in_percent, margins)
            held = f"{np.mean(own['cached_share']):.0%}"
            table.add_row(way, policy, *shown, held)
        kept[way] = values
    console.print(table)
    return kept


def in_percent(margin: Margin) -> str:
    """The change, with its interval if there is one."""
    half = f" ±{margin.interval[1] - margin.relative:.1%}" if margin.interval else ""
    return f"{margin.relative:+.1%}{half}"


if __name__ == "__main__":
    main()
