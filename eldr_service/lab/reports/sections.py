"""The report's sections: texts, panels, tables."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.reports.findings import TPOT, Findings, Swept
from eldr_service.lab.reports.heat_map import HeatMap, too_few
from eldr_service.lab.reports.palette import QUIET, colours
from eldr_service.lab.reports.plot import Line, Plot
from eldr_service.lab.reports.section import Panel, Section, Table
from eldr_service.lab.reports.sensitivity import described, sensitivities
from eldr_service.lab.reports.verdict import Verdict
from eldr_service.lab.reports.words import PLUS_MINUS, change, milliseconds, number, percent, plain
from eldr_service.lab.reports.worth import Worth

P50, P99, MEAN = TPOT
MOST_ROWS = 14
DOUBTFUL = 0.01  # share of copies above which a point is drawn hollow


def make_sections(findings: Findings, found: Verdict, worth: Worth | None) -> list[Section]:
    """All sections for which there are findings, in the report's order."""
    return list(_sections(findings, found, worth))


def _sections(findings: Findings, found: Verdict, worth: Worth | None) -> Iterator[Section]:
    sweeps = findings.sweeps
    if "rate" in sweeps:
        yield _rate(findings, sweeps["rate"])
    yield _experts(findings, sweeps.get("rate"))
    yield _map(findings, found)
    if worth is not None:
        yield _worth(findings, sweeps["workers"], worth)
    yield from sensitivities(findings)


def _rate(findings: Findings, swept: Swept) -> Section:
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
        drawn = Plot(lines, swept.sweep.parameter, label, marks=_base_rate(findings))
        panels.append(Panel(label, described(label, swept, figure, findings.names), drawn))
    own = [p for p in findings.main if p in findings.others]
    rows = []
    for i, rate in enumerate(x):
        at = swept.changes[i]
        medians = (milliseconds(swept.mean(policy, P50)[i]) for policy in findings.main)
        gains = ("\n".join(change(at.get((p, f))) for f in (MEAN, P99)) for p in own)
        rows.append((plain(rate), *medians, *gains, percent(swept.copies[i], signed=False)))
    headings = (
        "rate /s",
        *(f"{findings.names[policy]} p50 ms" for policy in findings.main),
        *(f"{findings.names[policy]} Δ mean, p99" for policy in own),
        "copies",
    )
    text = (
        "The grey bar marks the rate of the other sections. Δ is relative to the best load-only"
        " policy at the same rate and by the same figure. Hollow points: over 1% of the requests"
        " came while every recording was in flight, and repeat one that was."
    )
    return Section(
        "rate",
        "TPOT against rate",
        text,
        panels=tuple(panels),
        table=Table(headings, tuple(rows)),
        figure="rate",
    )


def _base_rate(findings: Findings) -> float | None:
    traffic = findings.plan.base.traffic
    return traffic.rate_per_s or (traffic.trace.rate_per_s if traffic.trace else None)


def _experts(findings: Findings, swept: Swept | None) -> Section:
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
        Plot(lines, "requests on a worker", label),
    )
    experts = findings.plan.recording.geometry.num_experts
    text = (
        f"Why there is a gain: a decode step reads each distinct expert of its batch once, of"
        f" {experts} in a layer. Dashed: batches of decode tokens of any recorded requests, drawn"
        " at random. Points below it hold requests that use the same experts. Requests on a worker"
        " are a mean until the last arrival; active experts are a mean over generated tokens, so"
        " that a policy that loads workers unevenly is above the dashed line."
    )
    headings = ("policy", "requests on a worker", "active experts", "against any requests")
    return Section(
        "experts",
        "Active experts against batch size",
        text,
        panels=(panel,),
        table=Table(headings, tuple(rows)),
    )


def _map(findings: Findings, found: Verdict) -> Section:
    workers = findings.plan.base.deployment.workers
    first = {policy: findings.base[policy][0].sent for policy in findings.main}
    totals = {group: sum(sent) for group, sent in next(iter(first.values())).items()}
    groups = sorted(totals, key=lambda group: -totals[group])[:MOST_ROWS]
    few = too_few(np.array([totals[group] for group in groups], np.float64), workers)
    counts = {
        policy: np.array([sent.get(group, [0] * workers) for group in groups], np.float64)
        for policy, sent in first.items()
    }
    shares = {p: c / np.maximum(c.sum(axis=1, keepdims=True), 1) for p, c in counts.items()}
    shown = _shown(findings, found)
    most = max((float(shares[policy][~few].max(initial=0)) for policy in shown), default=0) or 1.0
    kind = "domain" if findings.plan.recording.domains.astype(bool).any() else "slot"
    rows = tuple(
        (
            group,
            f"{totals[group]:,}",
            *("–" if few[i] else number(_effective(shares[p][i]), 1) for p in findings.main),
        )
        for i, group in enumerate(groups)
    )
    headings = (kind, "requests", *(f"{findings.names[p]}: workers" for p in findings.main))
    text = (
        f"Deeper: a larger share of the {kind}'s requests, on one scale"
        f" (seed {findings.plan.base.seeds[0]}; an even spread is"
        f" {percent(1 / workers, signed=False)} each). The table has, for every policy, the"
        " effective number of workers over which they are spread: exp of the entropy of the shares."
        + (
            " Only domain-oracle sees the domains."
            if kind == "domain"
            else " The recording has no domains; a slot has the requests nearest to its centroid."
        )
        + (f" The {MOST_ROWS} largest of {len(totals)}." if len(totals) > MOST_ROWS else "")
        + (" Grey: fewer than two requests per worker, too few to tell." if few.any() else "")
    )
    panels = tuple(_map_of(findings, p, groups, shares[p], few, most) for p in shown)
    return Section(
        "map",
        f"Where each {kind}'s requests went",
        text,
        panels=panels,
        table=Table(headings, rows),
    )


def _shown(findings: Findings, found: Verdict) -> list[str]:
    """The best load-only policy, and the one that the verdict is about."""
    own = found.rests_on.policy if found.rests_on else found.policy
    return list(
        dict.fromkeys([findings.main[0], own if own in findings.main else findings.main[-1]])
    )


def _map_of(
    findings: Findings,
    policy: str,
    groups: list[str],
    shares: NDArray[np.float64],
    few: NDArray[np.bool_],
    most: float,
) -> Panel:
    order = np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))
    name = findings.names[policy]
    effective = {
        g: _effective(row) for g, row, no in zip(groups, shares, few, strict=True) if not no
    }
    worst = min(effective, key=lambda group: effective[group], default=None)
    described = f"Share of each group's requests by worker under {name}."
    if worst:
        on = number(effective[worst], 1)
        described += f" Most concentrated: {worst}, on {on} workers in effect."
    drawn = HeatMap(
        shares[:, order],
        groups,
        few.tolist(),
        most,
        colours(findings.base)[policy],
        "workers, in order of what they hold most",
    )
    return Panel(name, described, drawn)


def _effective(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def _worth(findings: Findings, swept: Swept, worth: Worth) -> Section:
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
        described(
            f"{label}, target {milliseconds(worth.target_ms)} ms", swept, P50, findings.names
        ),
        Plot(
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
            saved += f" {PLUS_MINUS}{number((needed.interval[1] - needed.interval[0]) / 2, 1)}"
        bound = "≤ " if needed.at_most else ""
        rows.append(
            (findings.names[policy], bound + fewest, bound + number(needed.exact, 1), saved)
        )
    headings = ("policy", "fewest tried", "on the line between", "fewer than the best load-only")
    tried = ", ".join(plain(value) for value in x)
    text = (
        f"The fewest workers that keep a median TPOT of {milliseconds(worth.target_ms)} ms at the"
        f" same rate. Tried: {tried}. Values in between are interpolated linearly, so that"
        " fractions of a worker can be compared; a fleet has whole workers."
    )
    return Section(
        "workers",
        "What the gain is worth in workers",
        text,
        panels=(panel,),
        table=Table(headings, tuple(rows)),
        figure="workers",
    )
