"""The output of `eldr simulate`: a document for programs, tables for people, cautions."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType

from eldr_service.cli.tables import facts, table
from eldr_service.lab.simulation.band import in_words
from eldr_service.lab.simulation.comparison import LOAD_ONLY, Change, changes, over_seeds
from eldr_service.lab.simulation.contender import names
from eldr_service.lab.simulation.study import Run, Study

Figures = dict[str, float]

COLUMNS = {
    "tpot_ms.p50": ("TPOT p50 ms", 2),
    "tpot_ms.p95": ("p95", 2),
    "tpot_ms.p99": ("p99", 2),
    "tpot_ms.mean": ("mean", 2),
    "active_experts": ("ACTIVE EXPERTS", 2),
    "load_imbalance": ("IMBALANCE", 2),
    "requests": ("REQUESTS", 0),
}


class Summary:
    """The output; see also `cautions`.

    Parameters
    ----------
    study : Study
    arrivals, output_tokens : str
        As given on the command line.
    runs : dict of policy to list of Run, one per seed
    """

    def __init__(
        self, study: Study, arrivals: str, output_tokens: str | None, runs: dict[str, list[Run]]
    ) -> None:
        each = {policy: [run.figures for run in of_seed] for policy, of_seed in runs.items()}
        self._study, self._runs = study, runs
        self._arrivals, self._output_tokens = arrivals, output_tokens
        self._figures = {policy: over_seeds(figures) for policy, figures in each.items()}
        self._changes = changes(each)
        self._names = names(runs)

    def cautions(self) -> Iterator[str]:
        """What a reader of the figures should know."""
        copies = max(each["copies"] / each["requests"] for each in self._figures.values())
        if copies > 0.01:
            yield (
                f"warning: {copies:.0%} of the requests came while every recorded one was in"
                " flight, and repeat one; that flatters policies that see signatures. A lower"
                " --rate, a larger recording or --drive-all avoids it."
            )
        if not self._changes:
            yield "nothing to compare: give a policy that sees load alone, and one that sees more"
        elif len(self._study.seeds) == 1:
            yield "one seed says nothing about chance: --seeds 5 gives intervals"

    def document(self) -> dict[str, Any]:
        """For programs."""
        study = self._study
        costs = dict.fromkeys(engine.cost for engine in study.deployment.engines)
        return {
            "activations": str(study.activations),
            "workers": study.deployment.workers,
            "costs": [asdict(cost) for cost in costs],
            "rate_per_s": study.traffic.rate_per_s,
            "duration_s": study.traffic.duration_s,
            "arrivals": self._arrivals,
            "output_tokens": self._output_tokens,
            "calibration_fraction": study.calibration_fraction,
            "driven": "all" if study.drive_all else "rest",
            "shift_s": study.shift_s if math.isfinite(study.shift_s) else None,
            "seeds": list(study.seeds),
            "policies": {
                policy: {
                    **_nested(each),
                    "reasons": dict(sum((run.reasons for run in self._runs[policy]), Counter())),
                    "of_each_seed": [_of_seed(run) for run in self._runs[policy]],
                }
                for policy, each in self._figures.items()
            },
            "changes": [asdict(change) for change in self._changes],
        }

    def tables(self) -> list[RenderableType]:
        """Figures, then the other policies' changes relative to the best load-only one."""
        study = self._study
        driven = "the whole recording" if study.drive_all else "the rest"
        shift = ""
        if math.isfinite(study.shift_s):
            shift = f", other domains from {study.shift_s:g} s on"
        told = (
            ("recording", study.activations),
            ("fitted", f"on {study.calibration_fraction:.0%} of it, {driven} is driven{shift}"),
            ("seeds", ", ".join(map(str, study.seeds))),
        )
        headings = ("POLICY", *(f">{heading}" for heading, _ in COLUMNS.values()))
        rows = (
            (
                self._names[policy],
                *(f"{each[name]:,.{digits}f}" for name, (_, digits) in COLUMNS.items()),
            )
            for policy, each in self._figures.items()
        )
        answer: list[RenderableType] = [facts(told), "", table(headings, rows)]
        if widths := list(self._widths()):
            headings = ("BAND", "TRANSFORM", ">TAU", ">OF THE SPREAD", "POLICY")
            answer += ["", table(headings, widths)]
        own = [c for c in self._changes if c.policy.partition(":")[0] not in LOAD_ONLY]
        if own:
            headings = ("POLICY", "FIGURE", ">CHANGE", ">95%", "AGAINST")
            answer += ["", table(headings, map(self._row, own))]
        return answer

    def _widths(self) -> Iterator[tuple[str, ...]]:
        """The width of each band, over the seeds."""
        for policy, of_seed in self._runs.items():
            if wide := in_words([run.band for run in of_seed]):
                yield self._names[policy], *wide, policy

    def _row(self, change: Change) -> tuple[str, ...]:
        interval = "{:+.1%} to {:+.1%}".format(*change.interval) if change.interval else ""
        named = self._names[change.policy], change.figure
        return *named, f"{change.relative:+.1%}", interval, self._names[change.best_load_only]


def _of_seed(run: Run) -> dict[str, Any]:
    """One seed's figures; for a band also its width, and what it was chosen from."""
    more: dict[str, Any] = {}
    if run.band:
        known = None if math.isnan(run.band.width) else run.band.width
        more["band"] = {**asdict(run.band), "width": known}
    if run.choice:
        more["tried"] = {
            transform: [
                {"width": width, "tpot_ms_mean": mean if math.isfinite(mean) else None}
                for width, mean in tried.items()
            ]
            for transform, tried in run.choice.tried.items()
        }
    return {**_nested(run.figures), **more}


def _nested(figures: dict[str, float]) -> dict[str, Any]:
    """{"tpot_ms.p50": x, …} as {"tpot_ms": {"p50": x}, …}; null for NaN, which JSON lacks."""
    nested: dict[str, Any] = {}
    for name, value in figures.items():
        group, _, part = name.partition(".")
        known = None if math.isnan(value) else value
        if part:
            nested.setdefault(group, {})[part] = known
        else:
            nested[group] = known
    return nested
