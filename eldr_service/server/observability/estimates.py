"""What is estimated of each model, as metrics: the gain against load alone, and whether it is true.

A series is absent while there is nothing to say.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


@dataclass(frozen=True, slots=True)
class Estimates:
    """Of one model; None where it is not known.

    Attributes
    ----------
    active_experts : (float, float) or None
        Distinct experts per layer that a generated token's step used, as placed and by load alone.
    step_time_ratio : float or None
        A step's time relative to that by load alone: 1 as long.
    foretold : (int, float, float) or None
        Reports; sums over them of the active experts that were predicted, and reported.
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
        "A token's step time relative to that by load alone: 1 as long",
        labels=["model"],
    )
    reports, predicted, reported = (
        CounterMetricFamily(f"eldr_active_experts_{name}", text, labels=["model"])
        for name, text in (
            ("reports", "Reports of workers on a batch whose active experts were predicted"),
            ("predicted", "Sum over these reports of the active experts per layer predicted"),
            ("reported", "Sum over these reports of the active experts per layer reported"),
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
