"""The whole report, before it is laid out: words, figures, limits, and the document of numbers."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eldr_service.lab.reports.findings import FIGURES, TPOT, Findings, sweep_document
from eldr_service.lab.reports.limits import limits
from eldr_service.lab.reports.plan import name_of
from eldr_service.lab.reports.sections import Command, Section, Table, make_sections
from eldr_service.lab.reports.verdict import Verdict, Worth, verdict, worth
from eldr_service.lab.reports.words import change, milliseconds, number, percent, plain, span
from eldr_service.lab.simulation.band import in_words
from eldr_service.lab.simulation.comparison import Change, Margin
from eldr_service.lab.simulation.study import Run

P50, P99, MEAN = TPOT
NAMES = {P50: "p50", P99: "p99", MEAN: "mean"}


@dataclass(frozen=True)
class Tile:
    """A figure at the top: what it is, the number, what stands beneath it."""

    label: str
    number: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is laid out.

    Attributes
    ----------
    title, verdict : str
    facts : list of (name, value)
        Data, deployment, traffic, seeds.
    tiles : list of Tile
        Three.
    table : Table
        Every policy's figures at the given load.
    sections : list of Section
    limits : list of str
    command : str
        Which makes this report again.
    document : dict
        The same numbers, for programs.
    """

    title: str
    verdict: str
    facts: list[tuple[str, str]]
    tiles: list[Tile]
    table: Table
    sections: list[Section]
    limits: list[str]
    command: str
    document: dict[str, Any]


def make_report(
    findings: Findings,
    command: Command,
    *,
    name: str,
    sample: bool = False,
    target_ms: float | None = None,
) -> Report:
    """Put findings into words and figures.

    Parameters
    ----------
    findings : Findings
    command : callable
        The command line that repeats a sweep by its name, or for "" the base study alone.
    name : str
        Of the recording, as its readers know it.
    sample : bool
        It is the one that ships with the project.
    target_ms : float, optional
        See `worth`.
    """
    found, value = verdict(findings), worth(findings, target_ms)
    cautions = limits(findings, sample)
    return Report(
        title=f"What ELDR gains on {name}",
        verdict=_verdict(findings, found, value),
        facts=_facts(findings, name),
        tiles=_tiles(findings, found, value),
        table=_table(findings),
        sections=make_sections(findings, value, command),
        limits=cautions,
        command=command("all"),
        document=_document(findings, found, value, cautions, command),
    )


def _verdict(findings: Findings, found: Verdict, value: Worth | None) -> str:
    policy, best, names = (
        in_full(findings, found.policy),
        findings.best_load_only(MEAN),
        findings.names,
    )
    if best is None:
        beside = "the only one" if len(findings.base) == 1 else "the lowest of all"
        mean = milliseconds(findings.mean(found.policy, MEAN))
        return (
            f"Under {policy}, {beside}, the mean TPOT is {mean} ms."
            " No policy that sees load alone was given: there is nothing to measure a gain against."
        )
    if not found.gains:
        why = (
            "no other policy was given"
            if not findings.others
            else "none of the policies that see more lowers the mean TPOT without raising its p99,"
            " beyond chance"
        )
        return f"Stay with {policy}: {why}. On this traffic routing by experts gains nothing."
    parts = [_gain(found.changes[figure]) for figure in (P50, P99)]
    words = (
        f"Use {policy}. On this traffic it lowers TPOT {parts[0]} and {parts[1]}, each against the"
        " best policy that sees load alone"
    )
    if found.rival and found.against_rival and found.rival not in findings.load_only:
        nearest = names[found.rival]
        words += f". Of the others {nearest} is the strongest: {_beside(found.against_rival)}"
    needed = value.needed[found.policy] if value else None
    if value and needed and needed.saved is not None and value.reference:
        rival = value.needed[value.reference]
        bound = "at least " if needed.at_most else ""
        words += (
            f". A median TPOT of {milliseconds(value.target_ms)} ms takes {number(needed.exact, 1)}"
            f" workers under it and {number(rival.exact, 1)} under {names[value.reference]}:"
            f" {bound}{number(needed.saved, 1)} fewer, read between the numbers tried"
        )
    return f"{words}."


def _gain(found: Change) -> str:
    """How much lower a figure is; what chance may explain is said to be so."""
    name, (_, high) = NAMES[found.figure], found.interval or (0.0, found.relative)
    if high < 0:
        return f"{name} by {percent(-found.relative, signed=False)}"
    return f"{name} by nothing that chance does not explain ({percent(found.relative)})"


def _beside(margin: Margin) -> str:
    """How the recommended policy's mean TPOT stands to the rival's."""
    low, high = margin.interval or (margin.relative, margin.relative)
    if low <= 0 <= high:
        return f"the mean TPOT under both differs by no more than chance, {change(margin)}"
    against = "lower" if high < 0 else "higher"
    within = f" ({span(margin.interval)})" if margin.interval else ""
    return f"its mean TPOT is {percent(margin.relative)}{within}, {against} than under that"


def in_full(findings: Findings, policy: str) -> str:
    """Its name, and how it is set where that is not the same; of one that was tuned, to what."""
    name = findings.names[policy]
    choices = [run.choice for run in findings.base[policy] if run.choice]
    if choices:
        chosen, times = Counter((c.transform, c.width) for c in choices).most_common(1)[0]
        of = f", as {times} of {len(choices)} seeds chose" if len(choices) > 1 else ""
        return f"{name} ({name_of(policy)}:width={chosen[1]:g}, transform {chosen[0]}{of})"
    return name if name == policy else f"{name} ({policy})"


def _tiles(findings: Findings, found: Verdict, value: Worth | None) -> list[Tile]:
    policy = found.policy
    of_policy = Tile(
        "Recommended policy",
        findings.names[policy],
        (
            f"mean TPOT {milliseconds(findings.mean(policy, MEAN))} ms,"
            f" {number(findings.mean(policy, 'active_experts'))} active experts per layer",
        ),
    )
    changes = found.changes
    if changes:
        gain = Tile(
            "TPOT p50",
            percent(changes[P50].relative),
            tuple(
                f"{NAMES[f]} {change(changes[f])} against {changes[f].best_load_only}"
                for f in (P50, P99, MEAN)
            )
            + _against_rival(findings, found),
        )
    else:
        gain = Tile("TPOT p50", f"{milliseconds(findings.mean(policy, P50))} ms", ("no change",))
    needed = value.needed.get(policy) if value else None
    if needed and needed.saved is not None and value:
        lines = [
            f"{number(needed.exact, 1)} instead of"
            f" {number(value.needed[value.reference or policy].exact, 1)} keep"
            f" a median TPOT of {milliseconds(value.target_ms)} ms"
        ]
        if needed.interval:
            low, high = needed.interval
            lines.insert(0, f"95%: {number(low, 1)} to {number(high, 1)}")
        own = findings.plan.base.deployment.workers
        bound = "≥ " if needed.at_most else ""
        worth_tile = Tile(
            "Worth in workers", f"{bound}{number(needed.saved, 1)} of {own}", tuple(lines)
        )
    else:
        worth_tile = Tile("Worth in workers", "–", ("nothing to compare with, or not simulated",))
    return [of_policy, gain, worth_tile]


def _against_rival(findings: Findings, found: Verdict) -> tuple[str, ...]:
    if found.rival is None or found.rival in findings.load_only:
        return ()
    rival = findings.names[found.rival]
    return (f"mean {change(found.against_rival)} against {rival}, the strongest other",)


def _bands(findings: Findings) -> Iterator[tuple[str, str]]:
    """How wide each band was, by its name."""
    for policy, of_seed in findings.base.items():
        if wide := in_words([run.band for run in of_seed]):
            transform, tau, width = wide
            yield (
                findings.names[policy],
                f"{policy}: transform {transform}; tau {tau}, {width} of the partition's spread",
            )


def _facts(findings: Findings, name: str) -> list[tuple[str, str]]:
    base, recording = findings.plan.base, findings.plan.recording
    geometry, traffic = recording.geometry, base.traffic
    costs = ", ".join(dict.fromkeys(engine.cost.name for engine in base.deployment.engines))
    rate = (
        "the trace's own rate" if traffic.rate_per_s is None else f"{plain(traffic.rate_per_s)}/s"
    )
    recorded = traffic.trace is not None and traffic.trace.decode_engines
    came = "Poisson" if traffic.trace is None else "recorded" if recorded else "trace"
    fitted = percent(base.calibration_fraction, signed=False)
    driven = "the whole recording" if base.drive_all else "the rest"
    shift = ""
    if math.isfinite(base.shift_s):
        shift = f", other domains from {plain(base.shift_s)} s on"
    seeds = ", ".join(map(str, base.seeds))
    return [
        (
            "Data",
            f"{name}: {recording.num_requests:,} requests, {geometry.num_layers} layers x"
            f" {geometry.num_experts} experts, top-{geometry.top_k}",
        ),
        ("Fleet", f"{base.deployment.workers} decode workers, {costs}"),
        ("Traffic", f"{came}, {rate} for {plain(traffic.duration_s)} s"),
        ("Split", f"partition fitted on {fitted} of the recording, {driven} is driven{shift}"),
        *_bands(findings),
        ("Seeds", seeds),
    ]


def _table(findings: Findings) -> Table:
    rows = []
    for policy in findings.base:
        times = (milliseconds(findings.mean(policy, figure)) for figure in TPOT)
        against = (change(findings.changes.get((policy, f)), "\n") for f in TPOT)
        others = (
            number(findings.mean(policy, "active_experts")),
            number(findings.mean(policy, "load_imbalance")),
        )
        rows.append((findings.names[policy], *times, *others, *against))
    headings = (
        *("policy", "p50 ms", "p99 ms", "mean ms", "active experts", "imbalance"),
        *(f"Δ {NAMES[figure]}" for figure in TPOT),
    )
    return Table(headings, tuple(rows))


def _document(
    findings: Findings,
    found: Verdict,
    value: Worth | None,
    cautions: list[str],
    command: Command,
) -> dict[str, Any]:
    base = findings.plan.base
    costs = dict.fromkeys(engine.cost for engine in base.deployment.engines)
    return {
        "activations": str(base.activations),
        "workers": base.deployment.workers,
        "costs": [asdict(cost) for cost in costs],
        "rate_per_s": base.traffic.rate_per_s,
        "duration_s": base.traffic.duration_s,
        "seeds": list(base.seeds),
        "command": command("all"),
        "verdict": asdict(found),
        "policies": {
            policy: {figure: _known(findings.mean(policy, figure)) for figure in FIGURES}
            for policy in findings.base
        },
        "bands": {
            policy: [_band(run) for run in of_seed]
            for policy, of_seed in findings.base.items()
            if any(run.band for run in of_seed)
        },
        "changes": [asdict(one) for one in findings.changes.values()],
        "worth": asdict(value) if value else None,
        "sweeps": {name: sweep_document(swept) for name, swept in findings.sweeps.items()},
        "mixed": [{"batch": batch, "active_experts": active} for batch, active in findings.mixed],
        "sent": {policy: findings.base[policy][0].sent for policy in findings.main},
        "limits": cautions,
    }


def _band(run: Run) -> dict[str, Any] | None:
    return {**asdict(run.band), "width": _known(run.band.width)} if run.band else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
