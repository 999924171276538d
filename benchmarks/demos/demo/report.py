"""The demo's result as a page for the terminal."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from benchmarks.demos.demo import data
from benchmarks.demos.demo.heat_map import heat_map, tally
from benchmarks.demos.demo.plain import by_own_class
from benchmarks.demos.demo.result import Result
from benchmarks.demos.demo.verdict import (
    DEFAULT,
    LOAD_ONLY,
    ORACLE,
    RIVAL,
    best_load_only,
    chance,
    change,
    verdict,
)


def print_report(result: Result, console: Console) -> None:
    """Print the page."""
    work, runs, subject = result.work, result.runs, result.subject
    console.print(Rule("[bold]ELDR demo: recorded routing through the daemon, in virtual time"))
    console.print(_header(result))
    console.print()
    console.print(_table(result))
    console.print(_under_the_table(result))
    console.print()
    names, counts = tally(
        work.recording.domains[work.driven], runs[subject].placements, work.workers
    )
    console.print(Rule(f"[bold]Where {subject} sent each domain's requests", align="left"))
    console.print(heat_map(names, counts))
    console.print(
        f"Percent of the row, by worker; an even spread would be {100 / work.workers:.0f} each. The"
        " policy is not told the domains.",
        style="dim",
        highlight=False,
    )
    console.print()
    console.print(Rule("[bold]What it says", align="left"))
    known = data.known(result.name)
    said = Table.grid(padding=(0, 1))
    for sentence in verdict(result.figures, subject, known.model, work.workers):
        said.add_row("•", sentence)
    said.add_row("•", chance(result.other_seeds))
    said.add_row("•", _agreement(result))
    console.print(said)
    console.print()
    console.print(Rule("[bold]What to try next", align="left"))
    console.print(_next(result))
    console.print(f"\nThis took {result.seconds:.0f} s, setup left out.", style="dim")


def _header(result: Result) -> Table:
    work, known = result.work, data.known(result.name)
    recording, cost = work.recording, work.cost
    recorded = result.name != data.SAMPLE
    source = os.path.relpath(result.name) if recorded else "the sample that ships with the project"
    most = max(r.most_in_flight for r in result.runs.values())
    waited = max(r.waited for r in result.runs.values())
    rows = {
        "data": f"{source}\n{known.caveat}",
        "model": f"{known.model}: {recording.geometry}",
        "halves": f"{len(work.fitted)} requests to fit on, the other {len(work.driven)} to drive,"
        f" drawn by seed {work.seed}",
        "partition": f"{work.workers} slots, balanced k-means on the prefills, signature transform"
        f" {result.settings[result.subject].partition.transform.name}",
        "load": f"{len(work.arrivals):,} requests under every policy, Poisson, {work.rate:g} per"
        f" second for {work.arrivals[-1]:.1f} s of virtual time\n"
        f"at most {most} of {len(work.driven)} recordings in flight, none twice;"
        f" {waited or 'no'} arrival{'s' * (waited != 1)} had to wait for a free one",
        "workers": f"{work.workers} simulated decode engines, one process, speaking gRPC alone",
        "step time": f"{cost.fixed_us:g} us + {recording.geometry.num_layers} layers x"
        f" ({cost.per_layer_us:g} + {cost.per_expert_us:g} x active experts"
        f" + {cost.per_sequence_us:g} x requests\n+ {cost.per_context_token_us:g} x tokens of"
        f" context): {cost.name}, a stand-in",
    }
    return _pairs(rows)


def _table(result: Result) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("policy", no_wrap=True)
    for heading in (
        "active\nexperts",
        "against\nthe best",
        "step\nms",
        "TPOT\np50",
        "ms\np99",
        "imbal-\nance",
        "\nplaced",
        "Route\np50",
        "ms\np99",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    best = best_load_only(result.figures)
    for policy, run in result.runs.items():
        f = run.finished
        p50, p99 = run.route_ms()
        table.add_row(
            result.names[policy],
            f"{f.active_experts:.2f}",
            "best" if policy == best else f"{change(result.figures, policy):+.1%}",
            f"{f.step_ms:.3f}",
            f"{f.tpot_p50_ms:.2f}",
            f"{f.tpot_p99_ms:.2f}",
            f"{f.load_imbalance:.2f}",
            f"{len(run.placements):,}",
            f"{p50:.2f}",
            f"{p99:.2f}",
            style="bold green" if policy == result.subject else None,
            end_section=policy in (LOAD_ONLY[-1], list(result.runs)[-2]),
        )
    return table


def _under_the_table(result: Result) -> Table:
    fell_back: Counter[str] = Counter()
    for run in result.runs.values():
        fell_back.update({k: n for k, n in run.reasons.items() if k.startswith("LEAST_LOADED")})
    fallbacks = ", ".join(f"{n} {reason}" for reason, n in fell_back.items())
    return _pairs(
        {
            "active experts": "distinct ones per layer in the step that made a token: mean over"
            " generated tokens, as is the step time; against the best of the upper four",
            "imbalance": "most requests on a worker over the mean of all, until the last arrival",
            "Route": "real time as its caller sees it; daemon, engines and driver share"
            f" {os.cpu_count()} cores",
            "fallbacks": f"placements by load, without a signature: {fallbacks or 'none'}",
            **{
                name: result.settings[policy].in_words
                for policy, name in result.names.items()
                if policy != name
            },
            ORACLE: "for comparison only: it alone is told each request's domain",
        },
        "dim",
    )


def _pairs(rows: Mapping[str, str], style: str = "") -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(style=style)
    for name, text in rows.items():
        grid.add_row(name, Text(text))
    return grid


def _agreement(result: Result) -> Text:
    placed = sum(len(run.placements) for run in result.runs.values())
    if result.differing:
        return Text(
            "A plain loop in one process disagrees under"
            f" {', '.join(result.names[policy] for policy in result.differing)}: a bug, in it or in"
            " the daemon.",
            style="bold red",
        )
    return Text(
        f"A plain loop in one process, without daemon and gRPC, makes the same {placed:,}"
        " placements and gives the same figures, to the last digit. It has rules of its own for"
        f" all policies but {', '.join(by_own_class(result.settings.values()))}."
    )


def _next(result: Result) -> Table:
    work = result.work
    at_hand = {path.stem for path in data.ACTIVATIONS.glob("*.npz")} | {data.SAMPLE}
    tries = [
        (f"make demo DATA={name}", f"other routing: {known.model}")
        for name, known in data.KNOWN.items()
        if name in at_hand and name != Path(result.name).stem
    ]
    tries += [
        *(
            (f"make demo POLICY={policy}", "the same, with the verdict on it")
            for policy in (DEFAULT, RIVAL)
            if policy != result.subject
        ),
        ("make demo KEEP=1", "the daemon's page in a browser, with traffic, until Ctrl-C"),
        (f"make demo SEED={work.seed + 1}", "other halves and other arrivals"),
        (f"make demo RATE={work.rate / 2:g}", "half the load: smaller batches, other gains"),
        (f"make demo WORKERS={max(2, work.workers // 2)}", "fewer workers have less to tell apart"),
        (".venv/bin/eldr-server", "a daemon of your own, on 127.0.0.1:50051; then"),
        (".venv/bin/eldr workers list", "the workers and their load"),
        (".venv/bin/eldr policy list", "the policies, and which is in force"),
        (".venv/bin/eldr explain --help", "why a request went where it went"),
        ("less build/demo.json", "all of this page's figures"),
    ]
    return _pairs(dict(tries), "dim")
