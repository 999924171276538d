"""The figures in words, and as a document."""

import math
from collections import Counter
from typing import Any

from benchmarks.demos.demo_vllm.statistics import METRICS, Estimate, bootstrap
from benchmarks.demos.demo_vllm.study import BAND, LOAD_ONLY, POLICIES, PRICED, SUBJECTS, Study


class Findings:
    """The figures of a study, with their intervals."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.values, self._changes = bootstrap(study.blocks)
        p50 = self.values["TPOT p50"]
        self.best = min(LOAD_ONLY, key=lambda policy: p50[policy].value)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Which policies are compared with which."""
        peers = [name for name in self.study.blocks[0] if name not in POLICIES]
        against = [(subject, peer) for peer in peers for subject in SUBJECTS]
        return [*((subject, self.best) for subject in SUBJECTS), (PRICED, BAND), *against]

    def change(self, metric: str, policy: str, against: str) -> Estimate:
        """The change of a metric under one policy, relative to another."""
        return self._changes[metric][policy, against]

    @property
    def requests(self) -> int:
        """Requests under all policies; one that spans blocks counts in each."""
        return self._sum("answered") + self.unanswered + self.failed

    @property
    def unanswered(self) -> int:
        """Requests that a block's end cut off before their first token."""
        return self._sum("unanswered")

    @property
    def failed(self) -> int:
        """Requests refused or aborted by the other side."""
        return self._sum("failed")

    def reasons(self, policy: str) -> Counter[str]:
        """The reasons of a policy's placements, counted."""
        total: Counter[str] = Counter()
        for block in self.study.blocks:
            total.update(block[policy].reasons)
        return total

    @property
    def processors(self) -> float:
        """The share of processor time that was busy, with any program."""
        shares = [s.processors for block in self.study.blocks for s in block.values()]
        return sum(shares) / len(shares)

    def sentences(self) -> list[str]:
        """The main results, in sentences."""
        said = [self._sentence(*pair) for pair in self.pairs]
        reasons = sum(map(self.reasons, self.values["TPOT p50"]), Counter())
        fallbacks = sum(
            count
            for reason, count in reasons.items()
            if "FALLBACK" in reason or "LEAST_LOADED" in reason
        )
        said.append(
            f"{fallbacks} of {reasons.total()} placements fell back;"
            f" {self.failed or 'no'} requests failed."
        )
        return said

    def document(self) -> dict[str, Any]:
        """The content of build/demo_vllm.json for this study."""
        study = self.study
        return {
            "workload": study.name,
            "kinds": study.kinds,
            "blocks": len(study.blocks),
            "requests": self.requests,
            "unanswered": self.unanswered,
            "failed": self.failed,
            "left_booked": self._sum("left"),
            "in_flight": study.load.in_flight,
            "block_seconds": study.load.seconds,
            "slots": study.slots,
            "transform": study.transform,
            "processors_busy": self.processors,
            "best_load_only": self.best,
            "reasons": {p: dict(self.reasons(p)) for p in self.values["TPOT p50"]},
            "metrics": {
                metric.name: {
                    "unit": metric.unit,
                    **{p: _triple(e) for p, e in self.values[metric.name].items()},
                    "changes": {
                        f"{policy} against {other}": _triple(
                            self.change(metric.name, policy, other)
                        )
                        for policy, other in self.pairs
                    },
                }
                for metric in METRICS
            },
        }

    def _sentence(self, policy: str, against: str) -> str:
        tpot, p99, experts = (
            self.change(metric, policy, against)
            for metric in ("TPOT p50", "TPOT p99", "active experts")
        )
        if tpot.high < 0:
            chance = "a gain outside chance"
        elif tpot.low > 0:
            chance = "WORSE, outside chance"
        else:
            chance = "no difference outside chance"
        return (
            f"{policy} against {against}: TPOT p50 {_percent(tpot)}, {chance};"
            f" p99 {_percent(p99)}; active experts {_percent(experts)}."
        )

    def _sum(self, field: str) -> int:
        return sum(getattr(s, field) for block in self.study.blocks for s in block.values())


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:+.1%} [{estimate.low:+.1%}, {estimate.high:+.1%}]"


def _triple(estimate: Estimate) -> list[float | None]:
    """Value, low, high; None for no figure, as for a peer's router time: JSON has no NaN."""
    triple = (estimate.value, estimate.low, estimate.high)
    return [None if math.isnan(each) else each for each in triple]
