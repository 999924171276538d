"""Estimates for each model as metrics: the gain over load alone, and how accurate it is.

A series is absent while its value is unknown.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


@dataclass(frozen=True, slots=True)
class Estimates:
    """Estimates for one model; None if unknown.

    Attributes
    ----------
    active_experts : (float, float) or None
        Distinct experts per layer that a generated token's step used, as placed and by load alone.
    step_time_ratio : float or None
        Step time relative to that by load alone; 1 means equal.
    foretold : (int, float, float) or None
        Number of reports; sums over them of the predicted and of the reported active experts.
    """

    active_experts: tuple[float, float] | None = None
    step_time_ratio: float | None = None
    foretold: tuple[int, float, float] | None = None


def estimated(models: Iterable[tuple[str, Estimates]]) -> tuple[Metric, ...]:
    """The metrics of these models."""
    active = GaugeMetricFamily(
        "eldr_estimated_active_experts",
        "Distinct experts per layer that a token's step used: as placed, or by load alone",
        labels=["model", "placed"],
    )
    ratio = GaugeMetricFamily(
        "eldr_estimated_step_time_ratio",
        "A token's step time relative to that by load alone; 1 means equal",
        labels=["model"],
    )
    reports, predicted, reported = (
        CounterMetricFamily(f"eldr_active_experts_{name}", text, labels=["model"])
        for name, text in (
            ("reports", "Workers' reports on batches whose active experts were predicted"),
            ("predicted", "Sum over these reports of the predicted active experts per layer"),
            ("reported", "Sum over these reports of the reported active experts per layer"),
        )
    )
    for model, known in models:
        if known.active_experts:
            for placed, number in zip(("policy", "load"), known.active_experts, strict=True):
                active.add_metric([model, placed], number)
        if known.step_time_ratio is not None:
            ratio.add_metric([model], known.step_time_ratio)
        if known.foretold:
            for family, number in zip((reports, predicted, reported), known.foretold, strict=True):
                family.add_metric([model], number)
    return active, ratio, reports, predicted, reported
