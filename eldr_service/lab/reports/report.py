"""The whole report before layout: words, figures, limits, and a document of the numbers."""

from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from eldr_service.lab.reports.findings import FIGURES, TPOT, Findings, sweep_document
from eldr_service.lab.reports.limits import limits
from eldr_service.lab.reports.opening import NAMES, Decide, Opening, opening
from eldr_service.lab.reports.section import Section, Table
from eldr_service.lab.reports.sections import make_sections
from eldr_service.lab.reports.setting import setting
from eldr_service.lab.reports.verdict import Verdict, verdict
from eldr_service.lab.reports.words import change, milliseconds, number
from eldr_service.lab.reports.worth import Worth, worth
from eldr_service.lab.simulation.study import Run


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything to lay out.

    Attributes
    ----------
    title : str
    made : datetime
        Time of creation.
    version : str
        ELDR's version.
    opening : Opening
    setting : list of (name, value)
        Data, deployment, traffic, seeds.
    table : Table
        Every policy's figures at the given load.
    sections : list of Section
    limits : list of str
    command : str
        Makes this report again, run in the folder of its files.
    document : dict
        The same numbers, for programs.
    """

    title: str
    made: datetime
    version: str
    opening: Opening
    setting: list[tuple[str, str]]
    table: Table
    sections: list[Section]
    limits: list[str]
    command: str
    document: dict[str, Any]


def make_report(
    findings: Findings,
    *,
    name: str,
    made: datetime,
    command: str,
    decide: Decide,
    sample: bool = False,
    target_ms: float | None = None,
    note: str = "",
) -> Report:
    """Turn findings into words and figures.

    Parameters
    ----------
    findings : Findings
    name : str
        The recording's name for readers.
    made : datetime
    command : str
        Makes the report again, without local paths.
    decide : callable
        See `Decide`.
    sample : bool
        Whether the recording is the one that ships with the project.
    target_ms : float, optional
        See `worth`.
    note : str
        Why the load differs from what was asked for.
    """
    found, value = verdict(findings), worth(findings, target_ms)
    first = opening(findings, found, value, decide, note, sample)
    cautions = limits(findings, sample)
    return Report(
        title=f"What ELDR gains on {name}",
        made=made,
        version=version("eldr-service"),
        opening=first,
        setting=setting(findings, name),
        table=_table(findings, found),
        sections=make_sections(findings, found, value),
        limits=cautions,
        command=command,
        document=_document(findings, found, value, first, cautions) | {"command": command},
    )


def _table(findings: Findings, found: Verdict) -> Table:
    order = (TPOT[2], *TPOT[:2])  # the mean first: the verdict is based on it
    rows = []
    for policy in findings.base:
        times = (milliseconds(findings.mean(policy, figure)) for figure in order)
        against = (change(findings.changes.get((policy, figure))) for figure in order)
        others = (
            number(findings.mean(policy, "active_experts")),
            number(findings.mean(policy, "load_imbalance")),
        )
        rows.append((findings.names[policy], *times, *against, *others))
    headings = (
        "policy",
        *(f"{NAMES[figure]} ms" for figure in order),
        *(f"Δ {NAMES[figure]}" for figure in order),
        *("active experts", "imbalance"),
    )
    return Table(headings, tuple(rows), list(findings.base).index(found.policy))


def _document(
    findings: Findings,
    found: Verdict,
    value: Worth | None,
    first: Opening,
    cautions: list[str],
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
        "advice": first.advice,
        "decide": first.decide,
        "caveats": dict(first.caveats),
        "verdict": asdict(found) | {"gains": found.gains},
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
