"""The report's sections: what each says, its panels, its table, the command that repeats it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from eldr_service.lab.reports.drawing import Line, heat_map, plot, style
from eldr_service.lab.reports.findings import TPOT, Findings, Swept
from eldr_service.lab.reports.palette import QUIET, colours
from eldr_service.lab.reports.plan import EVALUATION_ONLY, name_of
from eldr_service.lab.reports.verdict import Worth
from eldr_service.lab.reports.words import change, milliseconds, number, percent, plain

P50, P99, MEAN = TPOT
MOST_ROWS = 14
DOUBTFUL = 0.01  # share of copies from which a point is drawn hollow


@dataclass(frozen=True)
class Table:
    """Words in rows, a cell of a few lines; all columns but the first are of numbers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Panel:
    """A picture, and what it shows in words for those who do not see it."""

    title: str
    description: str
    canvas: Canvas


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes
    ----------
    name, title, text : str
    panels : tuple of Panel
    table : Table
    command : str
        Which simulates the same again.
    """

    name: str
    title: str
    text: str
    _: KW_ONLY
    panels: tuple[Panel, ...]
    table: Table
    command: str


Command = Callable[[str], str]


def make_sections(findings: Findings, worth: Worth | None, command: Command) -> list[Section]:
    """All sections that there are findings for, in the report's order.

    Parameters
    ----------
    command : callable
        The command line that repeats a sweep, by its name.
    """
    with style():
        return list(_sections(findings, worth, command))


def _sections(findings: Findings, worth: Worth | None, command: Command) -> Iterator[Section]:
    sweeps = findings.sweeps
    if "rate" in sweeps:
        yield _rate(findings, sweeps["rate"], command("rate"))
    yield _experts(findings, sweeps.get("rate"), command("rate" if "rate" in sweeps else ""))
    yield _map(findings, command(""))
    if worth is not None:
        yield _worth(findings, sweeps["workers"], worth, command("workers"))
    for name, (title, text) in SENSITIVITIES.items():
        if name in sweeps:
            yield _sensitivity(findings, sweeps[name], title, text, command(name))


def _rate(findings: Findings, swept: Swept, command: str) -> Section:
    x = swept.sweep.values
    colour = colours(findings.base)
    panels = []
    for figure, label in ((P50, "TPOT p50, ms"), (P99, "TPOT p99, ms")):
        lines = [
            Line(
                findings.names[policy],
                colour[policy],
                x,
                swept.mean(policy, figure).tolist(),
                doubtful=[share > DOUBTFUL for share in swept.copies],
            )
            for policy in swept.policies
        ]
        canvas = plot(lines, swept.sweep.parameter, label, marks=_base_rate(findings))
        panels.append(Panel(label, _described(label, swept, figure, findings.names), canvas))
    own = [p for p in findings.main if p in findings.others]
    rows = []
    for i, rate in enumerate(x):
        at = swept.changes[i]
        medians = (milliseconds(swept.mean(policy, P50)[i]) for policy in findings.main)
        gains = ("\n".join(change(at.get((p, f)), "\n") for f in (P50, P99)) for p in own)
        rows.append((plain(rate), *medians, *gains, percent(swept.copies[i], signed=False)))
    headings = (
        "rate /s",
        *(f"{findings.names[policy]} p50 ms" for policy in findings.main),
        *(f"{findings.names[policy]} Δ p50, p99" for policy in own),
        "copies",
    )
    text = (
        "The grey bar marks the rate of the other sections. Δ is against the best load-only policy"
        " at the same rate and by the same figure, with its 95% interval over paired seeds. Hollow"
        " points: over 1% of the requests came when every recording was in flight."
    )
    return Section(
        "rate",
        "TPOT against rate",
        text,
        panels=tuple(panels),
        table=Table(headings, tuple(rows)),
        command=command,
    )


def _base_rate(findings: Findings) -> float | None:
    traffic = findings.plan.base.traffic
    return traffic.rate_per_s or (traffic.trace.rate_per_s if traffic.trace else None)


def _experts(findings: Findings, swept: Swept | None, command: str) -> Section:
    colour = colours(findings.base)
    lines = []
    rows = []
    for policy in findings.main:
        if swept is not None:
            batch, active = swept.mean(policy, "in_flight"), swept.mean(policy, "active_experts")
        else:
            batch = np.array([findings.mean(policy, "in_flight")])
            active = np.array([findings.mean(policy, "active_experts")])
        order = np.argsort(batch)
        name = findings.names[policy]
        lines.append(Line(name, colour[policy], batch[order].tolist(), active[order].tolist()))
    batches, mixed = zip(*findings.mixed, strict=True)
    lines.append(Line("any requests", QUIET, batches, mixed, dashed=True))
    for policy in findings.base:
        found = findings.mean(policy, "in_flight"), findings.mean(policy, "active_experts")
        by_chance = float(np.interp(found[0], batches, mixed))
        of_policy = (number(found[0]), number(found[1]), percent(found[1] / by_chance - 1))
        rows.append((findings.names[policy], *of_policy))
    label = "active experts of a layer"
    ends = "; ".join(f"{line.name}: {number(line.y[-1])} at {number(line.x[-1])}" for line in lines)
    panel = Panel(
        "Active experts against batch size",
        f"{label} against requests on a worker. {ends}.",
        plot(lines, "requests on a worker", label),
    )
    experts = findings.plan.recording.geometry.num_experts
    text = (
        f"Why anything is gained: a decode step reads each distinct expert of its batch once, of"
        f" {experts} in a layer. Dashed: batches of decode tokens of any recorded requests, drawn"
        " at random. Points below it hold requests that use the same experts. Requests on a worker"
        " are a mean until the last arrival; active experts are a mean over generated tokens, so"
        " that a policy that loads workers unevenly lies above the dashed line."
    )
    headings = ("policy", "requests on a worker", "active experts", "against any requests")
    return Section(
        "experts",
        "Active experts against batch size",
        text,
        panels=(panel,),
        table=Table(headings, tuple(rows)),
        command=command,
    )


def _map(findings: Findings, command: str) -> Section:
    colour = colours(findings.base)
    workers = findings.plan.base.deployment.workers
    first = {policy: findings.base[policy][0].sent for policy in findings.main}
    totals = {group: sum(sent) for group, sent in next(iter(first.values())).items()}
    groups = sorted(totals, key=lambda group: -totals[group])[:MOST_ROWS]
    panels = []
    effective: dict[str, list[float]] = {}
    for policy, sent in first.items():
        counts = np.array([sent.get(group, [0] * workers) for group in groups], dtype=np.float64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        effective[policy] = [_effective(row) for row in shares]
        order = np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))
        worst = min(range(len(groups)), key=lambda i: effective[policy][i])
        name = findings.names[policy]
        described = (
            f"Share of each group's requests by worker under {name}. Most concentrated:"
            f" {groups[worst]}, on {number(effective[policy][worst], 1)} workers in effect."
        )
        canvas = heat_map(
            shares[:, order], groups, colour[policy], "workers, in order of what they hold most"
        )
        panels.append(Panel(name, described, canvas))
    kind = "domain" if findings.plan.recording.domains.astype(bool).any() else "slot"
    rows = tuple(
        (
            group,
            f"{totals[group]:,}",
            *(number(effective[policy][i], 1) for policy in findings.main),
        )
        for i, group in enumerate(groups)
    )
    headings = (
        kind,
        "requests",
        *(f"{findings.names[policy]}: workers" for policy in findings.main),
    )
    text = (
        f"Deeper: a larger share of the {kind}'s requests"
        f" (seed {findings.plan.base.seeds[0]}; an even spread is"
        f" {percent(1 / workers, signed=False)} each). The table has the number of workers over"
        " which they are spread in effect, exp of the entropy of the shares."
        + (
            " No policy but domain-oracle is told the domains."
            if kind == "domain"
            else " The recording names no domains; a slot has the requests nearest to its centroid."
        )
        + (f" The {MOST_ROWS} largest of {len(totals)}." if len(totals) > MOST_ROWS else "")
    )
    title = f"Where each {kind}'s requests went"
    return Section(
        "map", title, text, panels=tuple(panels), table=Table(headings, rows), command=command
    )


def _effective(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def _worth(findings: Findings, swept: Swept, worth: Worth, command: str) -> Section:
    colour = colours(findings.base)
    x = swept.sweep.values
    lines = [
        Line(
            findings.names[policy],
            colour[policy],
            x,
            swept.mean(policy, P50).tolist(),
            doubtful=[share > DOUBTFUL for share in swept.copies],
        )
        for policy in findings.main
    ]
    target = (worth.target_ms, f"target {milliseconds(worth.target_ms)} ms")
    label = "TPOT p50, ms"
    panel = Panel(
        "TPOT p50 against workers",
        _described(
            f"{label}, target {milliseconds(worth.target_ms)} ms", swept, P50, findings.names
        ),
        plot(
            lines,
            "decode workers at the same rate",
            label,
            across=target,
            marks=findings.plan.base.deployment.workers,
        ),
    )
    rows = []
    for policy, needed in worth.needed.items():
        fewest = "none tried" if needed.fewest is None else str(needed.fewest)
        saved = number(needed.saved, 1)
        if needed.interval:
            low, high = needed.interval
            saved += f" ({number(low, 1)} to {number(high, 1)})"
        bound = "≤ " if needed.at_most else ""
        rows.append(
            (findings.names[policy], bound + fewest, bound + number(needed.exact, 1), saved)
        )
    headings = ("policy", "fewest tried", "on the line between", "fewer than the best load-only")
    tried = ", ".join(plain(value) for value in x)
    text = (
        f"The fewest workers that keep a median TPOT of {milliseconds(worth.target_ms)} ms at the"
        f" same rate. Tried: {tried}. Between two numbers a straight line is read, so fractions"
        " of a worker can be told apart; whole workers are what a fleet has."
    )
    return Section(
        "workers",
        "What the gain is worth in workers",
        text,
        panels=(panel,),
        table=Table(headings, tuple(rows)),
        command=command,
    )


SENSITIVITIES = {
    "tau": (
        "Sensitivity to tau",
        "How similar a worker must be to the best one to be in the locality band: at 0 the most"
        " similar worker is taken whatever its load, at 2 load alone decides.",
    ),
    "tail": (
        "Sensitivity to tail",
        "How much longer than the fleet's mean the step of the worker that marginal-cost chooses"
        " may be.",
    ),
    "window": (
        "Sensitivity to how much the partition was fitted on",
        "The partition sees only so many of the requests that are for fitting, drawn by the seed;"
        " those that are driven are the same at every point.",
    ),
    "domains": (
        "Sensitivity to how old the partition is",
        "Recordings carry no dates, so age is played by novelty: the partition was fitted on so"
        " many domains, drawn by the seed, and all of them are driven. At the left most of the"
        " traffic is new to it; it has also been fitted on fewer requests there.",
    ),
    "output": (
        "Sensitivity to output length",
        "Every request makes so many tokens; the rate falls in proportion, so that about as many"
        " are in flight. Outputs longer than recorded go through the recorded tokens again.",
    ),
    "cost": (
        "Sensitivity to what a step costs beside the experts",
        "What a step takes for all but the experts' weights, relative to the cost model, at a rate"
        " that keeps about as many requests in flight. Where the MoE layers were measured by"
        " themselves, the leftmost point is of their costs alone.",
    ),
    "workers": (
        "Sensitivity to the number of workers",
        "At the same rate: fewer workers hold more requests each, and the partition has a slot a"
        " worker.",
    ),
}


def _sensitivity(findings: Findings, swept: Swept, title: str, text: str, command: str) -> Section:
    x = swept.sweep.values
    own = [p for p in swept.sweep.policies if p in findings.others]
    own = [p for p in own if name_of(p) != EVALUATION_ONLY]
    if not swept.changes[0]:
        own = []
    colour = colours(findings.base)
    panels = []
    for figure, label in ((P50, "TPOT p50"), (P99, "TPOT p99")):
        lines = [
            _change_line(findings.names[policy], swept, policy, figure, colour[policy])
            for policy in own
        ]
        label = f"{label} against the best load-only policy"
        if not own:  # nothing to compare with: the times themselves
            label = f"{label.partition(' against')[0]}, ms"
            lines = [
                Line(findings.names[policy], colour[policy], x, swept.mean(policy, figure).tolist())
                for policy in swept.sweep.policies
            ]
        canvas = plot(lines, swept.sweep.parameter, label, percent=bool(own))
        panels.append(Panel(label, _described(label, swept, figure, findings.names), canvas))
    rows = []
    for i, value in enumerate(x):
        at = swept.changes[i]
        if own:
            cells = tuple(change(at.get((p, f)), "\n") for p in own for f in (P50, P99))
        else:
            cells = tuple(
                milliseconds(swept.mean(p, f)[i]) for p in swept.sweep.policies for f in (P50, P99)
            )
        rows.append((plain(value), *cells))
    sign = "Δ " if own else ""
    headings = (
        swept.sweep.parameter,
        *(
            f"{findings.names[p]} {sign}{part}"
            for p in own or swept.sweep.policies
            for part in ("p50", "p99")
        ),
    )
    name = f"{swept.sweep.name}-sensitivity"
    return Section(
        name, title, text, panels=tuple(panels), table=Table(headings, tuple(rows)), command=command
    )


def _change_line(name: str, swept: Swept, policy: str, figure: str, colour: str) -> Line:
    found = [at.get((policy, figure)) for at in swept.changes]
    values = [change.relative if change else float("nan") for change in found]
    ends = [change.interval if change else None for change in found]
    whole = all(ends)
    return Line(
        name,
        colour,
        swept.sweep.values,
        values,
        low=[end[0] for end in ends if end] if whole else None,
        high=[end[1] for end in ends if end] if whole else None,
    )


def _described(label: str, swept: Swept, figure: str, names: Mapping[str, str]) -> str:
    """The ends of every line, in words."""
    first, last = swept.sweep.values[0], swept.sweep.values[-1]
    lines: Sequence[str] = [
        f"{names[policy]} from {milliseconds(swept.mean(policy, figure)[0])}"
        f" to {milliseconds(swept.mean(policy, figure)[-1])} ms"
        for policy in swept.policies
    ]
    axis = f"{swept.sweep.parameter} from {plain(first)} to {plain(last)}"
    return f"{label}, {axis}: {'; '.join(lines)}."
