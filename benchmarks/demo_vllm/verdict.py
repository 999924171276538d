"""What the figures say, in words, and as a document."""

from collections import Counter
from typing import Any

from benchmarks.demo_vllm.statistics import METRICS, Estimate, bootstrap
from benchmarks.demo_vllm.study import LOAD_ONLY, SUBJECT, Study


class Findings:
    """The figures of a study, with their intervals."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.values, self._changes = bootstrap(study.blocks)
        p50 = self.values["TPOT p50"]
        self.best = min(LOAD_ONLY, key=lambda policy: p50[policy].value)

    def change(self, metric: str) -> Estimate:
        """Of the subject, relative to the best load-only policy (by TPOT p50)."""
        return self._changes[metric][SUBJECT, self.best]

    @property
    def requests(self) -> int:
        """Under all policies; one that spans blocks counts in each."""
        return self._sum("answered") + self.unanswered + self.failed

    @property
    def unanswered(self) -> int:
        """Of the requests, those that a block's end cut off before their first token."""
        return self._sum("unanswered")

    @property
    def failed(self) -> int:
        """Of the requests, those refused or broken off by the other side."""
        return self._sum("failed")

    def reasons(self, policy: str) -> Counter[str]:
        """Why the placements of a policy went where they went."""
        total: Counter[str] = Counter()
        for block in self.study.blocks:
            total.update(block[policy].reasons)
        return total

    @property
    def processors(self) -> float:
        """The share of the processors that was busy, by anyone."""
        shares = [s.processors for block in self.study.blocks for s in block.values()]
        return sum(shares) / len(shares)

    def sentences(self) -> list[str]:
        """What a reader should take home."""
        tpot, experts = self.change("TPOT p50"), self.change("active experts")
        said = [
            f"{SUBJECT} against {self.best}, the better of the load-only policies:"
            f" active experts a token {_percent(experts)}, TPOT p50 {_percent(tpot)}."
        ]
        if tpot.high < 0:
            said.append("The gain in TPOT p50 is outside chance: its 95% interval is below zero.")
        elif tpot.low > 0:
            said.append("TPOT p50 is WORSE, outside chance: its 95% interval is above zero.")
        else:
            also = "though active experts fell" if experts.high < 0 else "nor do active experts"
            said.append(f"TPOT p50 shows no difference outside chance, {also}.")
        p99 = self.change("TPOT p99")
        said.append(f"TPOT p99 {_percent(p99)}, TTFT p50 {_percent(self.change('TTFT p50'))}.")
        reasons = sum(map(self.reasons, self.values["TPOT p50"]), Counter())
        fallbacks = sum(
            count
            for reason, count in reasons.items()
            if "FALLBACK" in reason or "LEAST_LOADED" in reason
        )
        said.append(
            f"{fallbacks} of {reasons.total()} placements fell back to a lesser answer;"
            f" {self.failed or 'no'} requests failed."
        )
        return said

    def document(self) -> dict[str, Any]:
        """For build/demo_vllm.json."""
        study = self.study
        return {
            "workload": study.name,
            "kinds": study.kinds,
            "blocks": len(study.blocks),
            "requests": self.requests,
            "unanswered": self.unanswered,
            "failed": self.failed,
            "left_booked": self._sum("left"),
            "rate": study.load.rate,
            "in_flight_at_start": study.load.in_flight,
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
                    "change": _triple(self.change(metric.name)),
                }
                for metric in METRICS
            },
        }

    def _sum(self, field: str) -> int:
        return sum(getattr(s, field) for block in self.study.blocks for s in block.values())


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:+.1%} [{estimate.low:+.1%}, {estimate.high:+.1%}]"


def _triple(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]
