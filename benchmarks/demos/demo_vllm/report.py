"""The findings as a page for the terminal."""

import math

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from benchmarks.demos.demo_vllm.statistics import METRICS, Estimate
from benchmarks.demos.demo_vllm.study import SUBJECTS
from benchmarks.demos.demo_vllm.verdict import Findings


def print_report(found: Findings, engines: int, console: Console) -> None:
    """Print the page of one workload."""
    study, load = found.study, found.study.load
    console.print(Rule(f"[bold]{study.name}: real vLLM, 1 prefill + {engines} decode engines"))
    console.print(
        f"{len(study.kinds)} kinds of text ({', '.join(study.kinds)}); {len(study.blocks)} paired"
        f" blocks of {load.seconds:.1f} s with {load.in_flight} requests in flight at any time;"
        f" {found.requests:,} requests, those that span blocks counted in each; partition of"
        f" {study.slots} slots, {study.transform}; processors {found.processors:.0%} busy.",
        style="dim",
        highlight=False,
    )
    table = _table()
    policies = list(study.blocks[0])
    for policy in policies:
        style = "bold green" if policy in SUBJECTS else None
        table.add_column(policy, justify="right", no_wrap=True, style=style)
    changes = _table()
    for policy, other in found.pairs:
        changes.add_column(f"{policy}\nagainst {other}", justify="right", no_wrap=True)
    for metric in METRICS:
        values = found.values[metric.name]
        table.add_row(
            f"{metric.name}, {metric.unit}",
            *(_shown(values[policy], metric.digits) for policy in policies),
        )
        pairs = (found.change(metric.name, *pair) for pair in found.pairs)
        changes.add_row(metric.name, *(_change(change) for change in pairs))
    console.print(table)
    console.print(changes)
    console.print(
        "In brackets 95% intervals, bootstrapped over runs of paired blocks.",
        style="dim",
        highlight=False,
    )
    for sentence in found.sentences():
        console.print(f"• {sentence}", highlight=False)
    console.print()


def _change(change: Estimate) -> str:
    if math.isnan(change.value):
        return "–"
    return f"{change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    return table


def _shown(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.value):
        return "–"
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
