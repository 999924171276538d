"""Placing a request by part of its prompt: how often is the choice the same, and what is gained?

    python -m benchmarks.policies.early_placement [--cell TEXT ...] [--policy NAME ...] [--seeds N]

Real recorded routing in virtual time, with a real service's arrivals and lengths (Mooncake's
conversations, stretched to each cell's rate; pairing the two is synthetic), 256 tokens per request.
For each share of the prompt seen:

*same choice*: how often the policy, at the same time and in the same state, makes the same choice
from the first tokens of the recorded prompt as from all of them. `another's` is how often it does
with the whole prompt of another request: agreement due to load alone.

*TPOT, TTFT*: requests placed when that share is prefilled (in whole chunks), their bookings
completed when the prefill ends, against the same requests placed at its end; paired seeds.

*KV there sooner*: how much sooner the decode can start, for several links. The model: a prefill
takes --prefill-us per token; KV, sized by the model's configuration, is sent at the link's rate
from the placement on, that of the last chunk when the prefill has ended. So a request gains the
rest of its prefill, or the transfer of all but the last chunk if that is shorter. Neither prefills
nor transfers queue.

Needs the public recordings in ../shared/data; writes build/bench/early_placement.json.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.policies.cells import DEEPSEEK, GPT_OSS, OUTPUT_TOKENS, Cell, How, study_of
from benchmarks.shared_data import SHARED, need_recordings
from benchmarks.written import written
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.partition import Partition
from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.comparison import student_t
from eldr_service.lab.simulation.deployment import Delay, Deployment
from eldr_service.lab.simulation.simulate import MODEL, simulate
from eldr_service.lab.simulation.study import log_to_stderr
from eldr_service.lab.simulation.traces import Trace
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
POLICIES = ("locality-band", "marginal-cost", "join-shortest-queue")
FIGURES = ("tpot_ms.p50", "tpot_ms.p99", "tpot_ms.mean", "ttft_ms.mean", "load_imbalance")
CELLS = (Cell(*DEEPSEEK, 16, 100), Cell(*GPT_OSS, 16, 150))
CONFIGS = {
    "qwen3-30b-a3b-h200": "Qwen--Qwen3-30B-A3B.json",
    "gpt-oss-120b-h200": "openai--gpt-oss-120b.json",
}
TRACE = SHARED / "requests" / "mooncake_conversation_trace.jsonl.zst"
LINKS_GBIT = (10, 25, 100, 400)
Mean = tuple[float, float]  # with half of its 95% interval


class Watched(Policy):
    """A policy that also records, at each decision, what it would have chosen from less."""

    def __init__(self, inner: Policy, workload: Workload, partition: Partition) -> None:
        super().__init__(inner.parameters)
        self._inner, self._partition = inner, partition
        for name in ("name", "description", "needs_signature", "needs_counts", "keeps_counts"):
            setattr(self, name, getattr(inner, name))
        self._known = {}
        n = len(workload.driven)
        for i in range(n):
            prefill = workload.prefill_counts(i).counts
            parts = [workload.first_counts(i, share).counts for share in SHARES]
            parts.append(workload.prefill_counts((i + n // 2) % n).counts)
            signatures = [partition.transform.signature(part) for part in parts]
            self._known[prefill.tobytes()] = list(zip(parts, signatures, strict=True))
        self.same: list[list[bool]] = []

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        decision = self._inner.pick(request, fleet)
        assert request.counts is not None
        choices = [
            self._inner.pick(request._replace(counts=part, signature=signature), fleet).worker
            for part, signature in self._known[request.counts.tobytes()]
        ]
        self.same.append([choice == decision.worker for choice in choices])
        return decision

    def on_booked(self, *told):
        self._inner.on_booked(*told)

    def on_ended(self, *told):
        self._inner.on_ended(*told)

    def on_reported(self, *told):
        self._inner.on_reported(*told)


def mean(values: Iterable[float]) -> Mean:
    """Mean over seeds, and half of its 95% interval; NaN for a single seed."""
    found = np.array(list(values))
    if len(found) < 2:
        return float(found.mean()), float("nan")
    half = student_t(len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def shown(value: Mean, digits: int, sign: str = "") -> str:
    """As a percentage, with its interval if there is one."""
    m, half = value
    interval = "" if np.isnan(half) else f" ±{half:.{digits}%}"
    return f"{m:{sign}.{digits}%}{interval}"


def deployment_of(cell: Cell, base: Deployment, options: argparse.Namespace) -> Deployment:
    """The deployment with prefill, and KV transfer over the simulations' link."""
    return replace(
        base,
        prefill=Delay(0.0, options.prefill_us * 1e-6),
        transfer=transfer_over(options.link, kv_bytes(cell)),
        chunk_tokens=options.chunk_tokens,
    )


def kv_bytes(cell: Cell) -> int:
    """KV bytes per token: keys and values of all layers, two bytes per entry."""
    path = SHARED / "model_configs" / CONFIGS[cell.cost]
    config = json.loads(Path(path).read_text())
    per_layer = config["num_key_value_heads"] * config["head_dim"]
    return 2 * 2 * config["num_hidden_layers"] * per_layer


def transfer_over(gbit: float, bytes_per_token: int) -> Delay:
    return Delay(0.0, bytes_per_token * 8 / (gbit * 1e9))


def sooner(deployment: Deployment, prompts: np.ndarray, share: float) -> float:
    """Mean seconds by which KV arrives sooner than for requests placed at the prefill's end."""
    early = replace(deployment, place_at=share)
    gains = []
    for n in prompts.tolist():
        prefilled = early.prefill.of(n)
        placed = prefilled * early.seen(n) / n
        gains.append(early.kv_ready(prefilled, prefilled, n) - early.kv_ready(placed, prefilled, n))
    return float(np.mean(gains))


def run_cell(cell: Cell, options: argparse.Namespace, done) -> dict:
    """All figures of a cell, as written to the JSON."""
    how = How(options.seeds, options.duration)
    traffic = Traffic(how.duration_s, cell.rate, Trace.load(TRACE), OUTPUT_TOKENS)
    study = replace(study_of(cell, (), how), traffic=traffic)
    deployment = deployment_of(cell, study.deployment, options)
    same: dict[str, list[np.ndarray]] = {policy: [] for policy in options.policy}
    figures: dict[tuple[str, float], list[dict[str, float]]] = {}
    prompts, seen_tokens = [], []
    for seed in study.seeds:
        workload = study.workload(seed)
        prompts.append(workload.requests.prompt_tokens)
        lengths = [workload.prefill_counts(i).num_tokens for i in range(len(workload.driven))]
        seen_tokens.append(np.mean(lengths))
        partition = fit_partition(
            MODEL,
            workload.recording.prefill_counts()[workload.fitted],
            workload.recording.geometry,
            n_clusters=cell.workers,
            random_state=seed,
        )
        for policy in options.policy:
            for share in SHARES:
                made = create(policy, {})
                if share == 1:
                    reads = made.needs_signature or made.needs_counts
                    watched = made = Watched(made, workload, partition) if reads else made
                placed = replace(deployment, place_at=share)
                result = simulate(workload, made, placed, partition)
                figures.setdefault((policy, share), []).append(result.figures())
                if share == 1 and reads:
                    same[policy].append(np.mean(watched.same, axis=0))
                done()
    every = np.concatenate(prompts)
    return {
        "kv_bytes_per_token": kv_bytes(cell),
        "recorded_prompt_tokens": float(np.mean(seen_tokens)),
        "prompt_tokens": float(every.mean()),
        "seen": {str(s): _seen(replace(deployment, place_at=s), every) for s in SHARES},
        "same_choice": {
            policy: dict(
                zip((*map(str, SHARES), "another's"), map(mean, np.transpose(found)), strict=True)
            )
            for policy, found in same.items()
            if found
        },
        "at_the_end": {
            policy: {f: mean(one[f] for one in figures[policy, 1.0]) for f in FIGURES}
            for policy in options.policy
        },
        "changes": {
            policy: {
                str(share): {
                    figure: mean(
                        early[figure] / late[figure] - 1
                        for early, late in zip(
                            figures[policy, share], figures[policy, 1.0], strict=True
                        )
                    )
                    for figure in FIGURES
                }
                for share in SHARES[:-1]
            }
            for policy in options.policy
        },
        "kv_sooner_ms": {
            str(gbit): {
                "transfer": float(transfer_over(gbit, kv_bytes(cell)).of(1) * every.mean() * 1e3),
                **{
                    str(share): 1e3
                    * sooner(
                        replace(deployment, transfer=transfer_over(gbit, kv_bytes(cell))),
                        every,
                        share,
                    )
                    for share in SHARES[:-1]
                },
            }
            for gbit in LINKS_GBIT
        },
    }


def _seen(deployment: Deployment, prompts: np.ndarray) -> float:
    return float(np.mean([deployment.seen(n) / n for n in prompts.tolist()]))


def show(console: Console, cell: Cell, found: dict, options: argparse.Namespace) -> None:
    shares = [f"{share:.0%}" for share in SHARES]
    tokens = found["recorded_prompt_tokens"]
    table = Table("POLICY", *shares, "another's", title=f"{cell}: same choice, prompt seen")
    table.add_row("recorded tokens seen", *(f"{share * tokens:.0f}" for share in SHARES), "")
    for policy, same in found["same_choice"].items():
        table.add_row(policy, *(shown(value, 0) for value in same.values()))
    console.print(table)
    title = f"against placing at the prefill's end; chunks of {options.chunk_tokens} tokens"
    table = Table("POLICY", "PLACED AT", "SEEN", *FIGURES, title=title)
    for policy, changes in found["changes"].items():
        at_end = (f"{m:.2f}" for m, _ in found["at_the_end"][policy].values())
        table.add_row(policy, "its end", "100%", *at_end)
        for share, row in changes.items():
            cells = (shown(value, 1, "+") for value in row.values())
            table.add_row(policy, f"{float(share):.0%}", f"{found['seen'][share]:.0%}", *cells)
    console.print(table)
    prefill_ms = options.prefill_us * found["prompt_tokens"] / 1e3
    title = f"KV there sooner, ms; the mean prefill takes {prefill_ms:.0f} ms"
    table = Table("LINK", "TRANSFER", *shares[:-1], title=title)
    for gbit, gains in found["kv_sooner_ms"].items():
        table.add_row(f"{gbit} Gbit/s", *(f"{ms:.1f}" for ms in gains.values()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.early_placement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cell", action="append", help="only cells whose name has this in it")
    parser.add_argument("--policy", action="append", help=f"default {', '.join(POLICIES)}")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--duration", type=float, default=12.0, help="seconds of arrivals")
    parser.add_argument("--prefill-us", type=float, default=50.0, help="per prompt token")
    parser.add_argument("--chunk-tokens", type=int, default=2_048, help="tokens per prefill step")
    parser.add_argument("--link", type=float, default=100.0, help="Gbit/s in the simulations")
    options = parser.parse_args()
    options.policy = options.policy or POLICIES
    need_recordings()
    log_to_stderr()
    console = Console(width=None if sys.stdout.isatty() else 130)
    chosen = [c for c in CELLS if not options.cell or any(part in str(c) for part in options.cell)]
    document = {"how": vars(options), "cells": {}}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        steps = len(chosen) * options.seeds * len(options.policy) * len(SHARES)
        task = progress.add_task("simulating", total=steps)
        for cell in chosen:
            found = run_cell(cell, options, lambda: progress.advance(task))
            document["cells"][str(cell)] = found
            show(console, cell, found, options)
    written("early_placement", document)


if __name__ == "__main__":
    main()
