"""`marginal-cost` with other traffic and hardware than in `benchmarks.policies.cells`.

Two cells, each changed in one respect at a time: engines of two speeds, real services' arrivals
(with 256 tokens each, and with their own lengths), bursts, outputs of 64 to 2,000 tokens with as
many requests in flight, reports and releases that are late, lost or wrong, KV caches that take time
to arrive, four replicas with late views of each other, and traffic that changes halfway from
domains that the partition was fitted on to others. Needs the public recordings and traces in
../shared/data.

    python -m benchmarks.policies.scenarios [--seeds N] [--only TEXT ...]

Prints how `marginal-cost` changes TPOT against `locality-band` and the best load-only policy, with
95% intervals from paired seeds, and writes build/bench/scenarios.json.
"""

import argparse
import os
import sys
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.policies.cells import DEEPSEEK, GPT_OSS, OUTPUT_TOKENS, Cell, How, study_of
from benchmarks.policies.goals import BAND, FIGURES, MEAN, P50, P99, POLICIES, PRICED, gain, judge
from benchmarks.shared_data import SHARED, need_recordings
from benchmarks.written import written
from eldr_service.lab.simulation.cost import StepCost, load_cost
from eldr_service.lab.simulation.deployment import Delay, Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.study import Study, log_to_stderr, run_studies, steps
from eldr_service.lab.simulation.traces import Trace

REQUESTS = SHARED / "requests"
TRACES = {
    "Azure": REQUESTS / "AzureLLMInferenceTrace_conv_2023.csv",
    "Mooncake": REQUESTS / "mooncake_conversation_trace.jsonl.zst",
}
CELLS = (Cell(*DEEPSEEK, 8, 120), Cell(*GPT_OSS, 16, 150))
OUTPUTS = (64, 256, 1000, 2000)
AROUND: dict[str, dict[str, Any]] = {
    "step times off by 30%": {"report_noise": 0.3},
    "reports 3 s late, a third lost": {"report_delay_s": 3.0, "report_loss": 0.33},
    "releases 0.2 s late, a third with decode counts": {
        "release_delay_s": 0.2,
        "decode_counts_share": 0.33,
    },
    "KV takes 20 ms and 10 µs per token": {"transfer": Delay(0.02, 10e-6)},
    "4 replicas, 50 ms late": {"replicas": 4, "view_delay_s": 0.05},
}


def scenarios(cell: Cell, seeds: int) -> dict[str, Study]:
    """Studies by name; the first is the cell unchanged."""
    base = study_of(cell, POLICIES, How(seeds))
    traffic = base.traffic
    fast = base.deployment.engines[0].cost
    found = {"as it is": base}
    slower = {"every other half as fast": _scaled(fast, 2.0)}
    if cell.cost == "qwen3-30b-a3b-h200":
        slower["every other an RTX PRO 6000"] = load_cost("qwen3-30b-a3b-rtxpro6000")
    for name, cost in slower.items():
        kinds = (Engine(fast), Engine(cost))
        deployment = Deployment.in_turn(kinds, cell.workers)
        rate = cell.rate * 0.6
        found[f"{name}, {rate:g}/s"] = replace(
            base, deployment=deployment, traffic=replace(traffic, rate_per_s=rate)
        )
    for name, path in TRACES.items():
        trace = Trace.load(path)
        found[f"{name}'s arrivals"] = replace(base, traffic=replace(traffic, trace=trace))
        own = sum(trace.output_tokens.tolist()) / len(trace.output_tokens)
        longer = own / OUTPUT_TOKENS
        found[f"{name}'s arrivals and lengths"] = replace(
            base, traffic=replace(_stretched(traffic, longer), trace=trace, output_tokens=None)
        )
    for tokens in OUTPUTS:
        if tokens != OUTPUT_TOKENS:
            changed = _stretched(traffic, tokens / OUTPUT_TOKENS)
            found[f"{tokens:,} tokens"] = replace(
                base, traffic=replace(changed, output_tokens=tokens)
            )
    found["bursts: gaps of a CV of 10"] = replace(base, traffic=replace(traffic, gap_cv=10.0))
    for name, changed in AROUND.items():
        found[name] = replace(base, deployment=replace(base.deployment, **changed))
    half = traffic.duration_s / 2
    found["other domains half way"] = replace(
        base, shift_s=half, traffic=replace(traffic, rate_per_s=cell.rate / 2)
    )
    return found


def _scaled(cost: StepCost, times: float) -> StepCost:
    return replace(
        cost.beside_experts(times),
        name=f"{cost.name} x {times:g}",
        per_expert_us=cost.per_expert_us * times,
    )


def _stretched(traffic, longer: float):
    """As many requests, and as many in flight, with `longer` times the tokens each."""
    return replace(
        traffic,
        rate_per_s=traffic.rate_per_s / longer,
        duration_s=traffic.duration_s * longer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.scenarios",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", action="append", help="scenarios whose name has this in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    need_recordings()
    log_to_stderr()
    chosen = {
        (cell, name): study
        for cell in CELLS
        for name, study in scenarios(cell, options.seeds).items()
        if not options.only or any(text in f"{cell}: {name}" for text in options.only)
    }
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=sum(map(steps, chosen.values())))
        runs = run_studies(list(chosen.values()), options.jobs, lambda: progress.advance(task))
    document: dict[str, object] = {}
    verdicts: Counter[str] = Counter()
    console = Console(width=None if sys.stdout.isatty() else 170)
    for cell in CELLS:
        table = Table("SCENARIO", title=f"{cell}: {PRICED}")
        rows = []
        for (where, name), each in zip(chosen, runs, strict=True):
            if where != cell:
                continue
            values = {
                policy: {figure: [run.figures[figure] for run in of_seed] for figure in FIGURES}
                for policy, of_seed in each.items()
            }
            judged = judge(values, cell.workers)
            verdicts.update(goal.verdict for goal in judged.values())
            requests = [run.figures for run in each[PRICED]]
            copies = sum(f["copies"] for f in requests) / sum(f["requests"] for f in requests)
            gains = {
                f"{policy} {figure}": gain(values, policy, figure)
                for policy in (BAND, PRICED)
                for figure in (P50, P99, MEAN)
            }
            rows.append((name, judged, copies))
            document[f"{cell}: {name}"] = {
                "values": values,
                "goals": {k: asdict(v) | {"verdict": v.verdict} for k, v in judged.items()},
                "against the best load-only": {k: asdict(v) for k, v in gains.items()},
                "copies": copies,
            }
        if not rows:
            continue
        for goal in rows[0][1]:
            table.add_column(goal)
        table.add_column("COPIES")
        for name, judged, copies in rows:
            cells = (f"{goal} {goal.verdict}" for goal in judged.values())
            table.add_row(name, *cells, f"{copies:.0%}")
        console.print(table)
    console.print(", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common()))
    written("scenarios", {"seeds": options.seeds, "scenarios": document})


if __name__ == "__main__":
    main()
