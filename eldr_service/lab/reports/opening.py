"""The first screen: the advice in words, three figures, and the main caveats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eldr_service.lab.reports.findings import TPOT, Findings
from eldr_service.lab.reports.load import TELLING
from eldr_service.lab.reports.setting import in_full
from eldr_service.lab.reports.verdict import P99, REQUESTS, SEEDS, Advice, Verdict, lower
from eldr_service.lab.reports.words import PLUS_MINUS, change, listed, milliseconds, number, plain
from eldr_service.lab.reports.worth import Worth
from eldr_service.lab.simulation.cost import built_in_costs

P50, _, MEAN = TPOT
NAMES = {P50: "p50", P99: "p99", MEAN: "mean"}
LABELS = {
    Advice.USE: "Recommended policy",
    Advice.STAY: "Stay with",
    Advice.UNDECIDED: "Undecided; best so far",
    Advice.LIGHT: "Load too small to tell",
    Advice.ALONE: "Nothing to compare",
}

Decide = Callable[[int, float, int], str]
"""The command that would decide, by number of seeds, factor on the duration, and workers."""


@dataclass(frozen=True)
class Tile:
    """A figure at the top: its label, the number, the lines below."""

    label: str
    number: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Opening:
    """What a reader sees first.

    Attributes
    ----------
    advice : str
        A sentence, with the figure that supports it.
    more : tuple of str
        Sentences that qualify it.
    decide : str
        The command that would decide; empty if nothing is open.
    tiles : tuple of Tile
        Three tiles.
    caveats : tuple of (name, text)
    """

    advice: str
    more: tuple[str, ...]
    decide: str
    tiles: tuple[Tile, ...]
    caveats: tuple[tuple[str, str], ...]


def opening(
    findings: Findings,
    found: Verdict,
    value: Worth | None,
    decide: Decide,
    note: str = "",
    sample: bool = False,
) -> Opening:
    """Compose the opening; `note` says why the load differs from what was asked for."""
    return Opening(
        _advice(findings, found),
        tuple(_more(findings, found, value)),
        _decide(findings, found, decide),
        (_policy_tile(findings, found), _gain_tile(findings, found), _worth_tile(found, value)),
        tuple(_caveats(findings, found, note, sample)),
    )


def _advice(findings: Findings, found: Verdict) -> str:
    policy, rests = in_full(findings, found.policy), _rests_on(findings, found)
    match found.advice:
        case Advice.ALONE:
            beside = "the only one" if len(findings.base) == 1 else "the lowest of all"
            mean = milliseconds(findings.mean(found.policy, MEAN))
            return (
                f"Under {policy}, {beside}, the mean TPOT is {mean} ms. No policy that sees load"
                " alone was given, so there is nothing to measure a gain against."
            )
        case Advice.USE:
            return f"Use {policy}: {rests}."
        case Advice.LIGHT:
            return (
                f"The load is too small to tell: a worker holds {number(found.held, 1)} requests on"
                f" average, and below {plain(TELLING)} a step has almost nothing to share."
            )
        case Advice.UNDECIDED:
            looks = f"{policy} looks best" if found.favours else "no policy gains"
            return f"Undecided ({'; '.join(found.lacking)}). So far {looks}: {rests}."
        case _ if found.rests_on is None:
            return f"Stay with {policy}: no policy that sees more than load was given."
        case _:
            return f"Stay with {policy}: {rests}."


def _rests_on(findings: Findings, found: Verdict) -> str:
    """The deciding figure with its interval, and its policy."""
    mean = found.rests_on
    if mean is None:
        return "nothing was compared"
    best = findings.names[mean.best_load_only]
    if mean.policy == found.policy:
        return f"mean TPOT {change(mean)} against {best}, the best policy that sees load alone"
    name = findings.names[mean.policy]
    tail = found.tail
    if lower(mean) and tail:
        return (
            f"{name} has a mean TPOT of {change(mean)} against {best}, but a p99 of {change(tail)}"
        )
    return f"{name} comes nearest, with a mean TPOT of {change(mean)} against {best}"


def _more(findings: Findings, found: Verdict, value: Worth | None) -> Iterator[str]:
    names, tail = findings.names, found.tail
    if found.advice not in (Advice.USE, Advice.UNDECIDED) or not found.favours:
        return
    if tail:
        beyond = "" if lower(tail) else ", which chance can explain"
        yield f"Its p99 is {change(tail)}{beyond}."
    if found.level:
        level = listed(f"{names[p]} ({change(margin)})" for p, margin in found.level.items())
        yield (
            f"It is undecided whether it is better than {level}: they gain as well, and its mean"
            " TPOT differs from theirs by no more than chance."
        )
    rival, margin = found.rival, found.against_rival
    if rival and margin and rival not in (*found.level, *findings.load_only):
        raised = findings.changes.get((rival, P99))
        barred = lower(findings.changes[rival, MEAN]) and raised and margin.relative > 0
        why = f", but that one's p99 is {change(raised)}" if barred else ""
        yield (
            f"Against {names[rival]}, the strongest other, its mean TPOT is {change(margin)}{why}."
        )
    needed = value.needed[found.policy] if value else None
    if value and needed and needed.saved is not None and value.reference:
        rival_needs = number(value.needed[value.reference].exact, 1)
        yield (
            f"A median TPOT of {milliseconds(value.target_ms)} ms takes {number(needed.exact, 1)}"
            f" workers under it and {rival_needs} under {names[value.reference]}, interpolated"
            " between the numbers tried."
        )


def _decide(findings: Findings, found: Verdict, decide: Decide) -> str:
    workers = findings.plan.base.deployment.workers
    if found.advice is Advice.LIGHT:
        fewer = max(2, int(workers * found.held / (2 * TELLING)))
        return decide(max(SEEDS, found.seeds), 1.0, min(fewer, workers))
    if found.advice is not Advice.UNDECIDED:
        return ""
    enough = found.seeds >= SEEDS and found.requests >= REQUESTS
    seeds = 2 * found.seeds if enough else max(SEEDS, found.seeds)
    times = max(1.0, 1.1 * REQUESTS / max(1, found.requests))
    return decide(seeds, times, workers)


def _policy_tile(findings: Findings, found: Verdict) -> Tile:
    mean = milliseconds(findings.mean(found.policy, MEAN))
    active = number(findings.mean(found.policy, "active_experts"))
    lines = (f"mean TPOT {mean} ms", f"{active} active experts per layer")
    return Tile(LABELS[found.advice], findings.names[found.policy], lines)


def _gain_tile(findings: Findings, found: Verdict) -> Tile:
    mean = found.rests_on
    if mean is None:
        value = f"{milliseconds(findings.mean(found.policy, MEAN))} ms"
        return Tile("Mean TPOT", value, ("nothing to compare",))
    label = "Mean TPOT"
    if mean.policy != found.policy:
        label = f"Mean TPOT of {findings.names[mean.policy]}, the nearest"
    others = (f"{NAMES[f]} {change(findings.changes[mean.policy, f])}" for f in (P50, P99))
    return Tile(
        label,
        change(mean),
        (
            f"against {findings.names[mean.best_load_only]}; ± is the 95% interval",
            f"{', '.join(others)}, each against the best by that figure",
        ),
    )


def _worth_tile(found: Verdict, value: Worth | None) -> Tile:
    needed = value.needed.get(found.policy) if value else None
    if not (value and needed and needed.saved is not None and value.reference):
        return Tile("Worth in workers", "–", ("nothing to compare, or not simulated",))
    half = (
        f" {PLUS_MINUS}{number((needed.interval[1] - needed.interval[0]) / 2, 1)}"
        if needed.interval
        else ""
    )
    bound = "≥ " if needed.at_most else ""
    rival = number(value.needed[value.reference].exact, 1)
    return Tile(
        "Worth in workers",
        f"{bound}{number(needed.saved, 1)}{half}",
        (
            f"{number(needed.exact, 1)} instead of {rival} keep a median TPOT of"
            f" {milliseconds(value.target_ms)} ms",
        ),
    )


def _caveats(
    findings: Findings, found: Verdict, note: str, sample: bool
) -> Iterator[tuple[str, str]]:
    if note:
        yield "Load", note
    if sample:
        yield "Recording", "The sample that comes with ELDR, not your traffic (--activations)."
    base = findings.plan.base
    costs = dict.fromkeys(engine.cost for engine in base.deployment.engines)
    for cost in costs:
        if cost.name in built_in_costs():
            whose = "a table that comes with ELDR, not measured on your hardware (--cost)"
        elif cost.source.startswith("Fitted:"):
            whose = "fitted to the steps that your engines recorded"
        else:
            whose = "as in your file"
        yield "Costs of a step", f"{cost.name}: {whose}."
    yield (
        "Left out",
        "Prefill engines, chunked prefill, preemption, speculative tokens, all-to-all; more under"
        " “What this cannot tell”.",
    )
    policies, seeds = len(findings.base), found.seeds
    runs = [run.figures for of_seed in findings.base.values() for run in of_seed]
    decisions = int(sum(one["requests"] + one["decided_again"] for one in runs))
    yield (
        "Counted",
        f"{int(max(one['requests'] for one in runs)):,} requests per seed in"
        f" {plain(base.traffic.duration_s)} simulated seconds, {seeds} seed{'s' * (seeds > 1)},"
        f" {policies} polic{'ies' if policies > 1 else 'y'}: {decisions:,} decisions;"
        f" {number(found.held, 1)} requests on a worker.",
    )
