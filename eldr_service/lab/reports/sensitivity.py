"""How the gain depends on the assumptions: one section per sweep."""

from collections.abc import Iterator, Mapping, Sequence

from eldr_service.lab.reports.findings import TPOT, Findings, Swept
from eldr_service.lab.reports.palette import colours
from eldr_service.lab.reports.plan import EVALUATION_ONLY, name_of
from eldr_service.lab.reports.plot import Line, Plot
from eldr_service.lab.reports.section import Panel, Section, Table
from eldr_service.lab.reports.words import change, milliseconds, plain

_, P99, MEAN = TPOT

SENSITIVITIES = {
    "tau": (
        "Sensitivity to tau",
        "How similar a worker must be to the best one to be in the locality band: at 0 the most"
        " similar worker is taken whatever its load, at 2 load alone decides.",
    ),
    "tail": (
        "Sensitivity to tail",
        "How much longer than the fleet's mean the step of the worker chosen by marginal-cost may"
        " be.",
    ),
    "window": (
        "Sensitivity to how much the partition was fitted on",
        "The partition is fitted on this many of the requests for fitting, drawn by the seed; the"
        " driven requests are the same at every point.",
    ),
    "domains": (
        "Sensitivity to how old the partition is",
        "Recordings have no dates, so age is emulated by novelty: the partition was fitted on this"
        " many domains, drawn by the seed, and all domains are driven. At the left most of the"
        " traffic is new to it; there it was also fitted on fewer requests.",
    ),
    "output": (
        "Sensitivity to output length",
        "Every request generates this many tokens; the rate falls in proportion, so that about as"
        " many are in flight. Outputs longer than recorded repeat the recorded tokens.",
    ),
    "cost": (
        "Sensitivity to what a step costs beside the experts",
        "The time of a step for everything but the experts' weights, relative to the cost model, at"
        " a rate that keeps about as many requests in flight. If the MoE layers were measured by"
        " themselves, the leftmost point is for their costs alone.",
    ),
    "workers": (
        "Sensitivity to the number of workers",
        "At the same rate: fewer workers hold more requests each, and the partition has one slot"
        " per worker.",
    ),
}


def sensitivities(findings: Findings) -> Iterator[Section]:
    """The sections of all sweeps that were made."""
    for name, (title, text) in SENSITIVITIES.items():
        if name in findings.sweeps:
            yield _sensitivity(findings, findings.sweeps[name], title, text)


def _sensitivity(findings: Findings, swept: Swept, title: str, text: str) -> Section:
    own = [p for p in swept.sweep.policies if p in findings.others]
    own = [p for p in own if name_of(p) != EVALUATION_ONLY]
    if not swept.changes[0]:
        own = []
    shown = own or swept.sweep.policies
    panels = []
    for figure, label in ((MEAN, "mean TPOT"), (P99, "TPOT p99")):
        # Without a load-only policy there is nothing to compare with: the times themselves.
        label += " against the best load-only policy" if own else ", ms"
        drawn = Plot(
            [_line(findings, swept, policy, figure, bool(own)) for policy in shown],
            swept.sweep.parameter,
            label,
            percent=bool(own),
            even=True,
        )
        panels.append(Panel(label, described(label, swept, figure, findings.names), drawn))
    sign = "Δ " if own else ""
    parts = [(p, f) for p in shown for f in (MEAN, P99)]
    rows = tuple(
        (
            plain(value),
            *(
                change(at.get(part)) if own else milliseconds(swept.mean(*part)[i])
                for part in parts
            ),
        )
        for i, (value, at) in enumerate(zip(swept.sweep.values, swept.changes, strict=True))
    )
    names = {MEAN: "mean", P99: "p99"}
    headings = (
        swept.sweep.parameter,
        *(f"{findings.names[p]} {sign}{names[f]}" for p, f in parts),
    )
    return Section(
        f"{swept.sweep.name}-sensitivity",
        title,
        text,
        panels=tuple(panels),
        table=Table(headings, rows),
        figure=swept.sweep.name,
    )


def _line(findings: Findings, swept: Swept, policy: str, figure: str, relative: bool) -> Line:
    name, colour, x = findings.names[policy], colours(findings.base)[policy], swept.sweep.values
    if not relative:
        return Line(name, colour, x, swept.mean(policy, figure).tolist())
    found = [at.get((policy, figure)) for at in swept.changes]
    values = [change.relative if change else float("nan") for change in found]
    ends = [change.interval for change in found if change and change.interval]
    whole = len(ends) == len(found)
    return Line(
        name,
        colour,
        x,
        values,
        low=[low for low, _ in ends] if whole else None,
        high=[high for _, high in ends] if whole else None,
    )


def described(label: str, swept: Swept, figure: str, names: Mapping[str, str]) -> str:
    """The ends of every line, in words."""
    first, last = swept.sweep.values[0], swept.sweep.values[-1]
    lines: Sequence[str] = [
        f"{names[policy]} from {milliseconds(swept.mean(policy, figure)[0])}"
        f" to {milliseconds(swept.mean(policy, figure)[-1])} ms"
        for policy in swept.policies
    ]
    axis = f"{swept.sweep.parameter} from {plain(first)} to {plain(last)}"
    return f"{label}, {axis}: {'; '.join(lines)}."
