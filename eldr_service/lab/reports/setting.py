"""Describes what was simulated."""

import math
from collections import Counter
from collections.abc import Iterator

from eldr_service.lab.reports.findings import Findings
from eldr_service.lab.reports.plan import name_of
from eldr_service.lab.reports.words import percent, plain
from eldr_service.lab.simulation.band import in_words


def in_full(findings: Findings, policy: str) -> str:
    """A policy's name, with its settings if they differ; if tuned, with the choice."""
    name = findings.names[policy]
    choices = [run.choice for run in findings.base[policy] if run.choice]
    if choices:
        chosen, times = Counter((c.transform, c.width) for c in choices).most_common(1)[0]
        of = f", as {times} of {len(choices)} seeds chose" if len(choices) > 1 else ""
        return f"{name} ({name_of(policy)}:width={chosen[1]:g}, transform {chosen[0]}{of})"
    return name if name == policy else f"{name} ({policy})"


def setting(findings: Findings, name: str) -> list[tuple[str, str]]:
    """Names and values: data, fleet, traffic, split, bands, seeds; `name` is the recording's."""
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
        ("Seeds", ", ".join(map(str, base.seeds))),
    ]


def _bands(findings: Findings) -> Iterator[tuple[str, str]]:
    """The width of each band, by its name."""
    for policy, of_seed in findings.base.items():
        if wide := in_words([run.band for run in of_seed]):
            transform, tau, width = wide
            yield (
                findings.names[policy],
                f"{policy}: transform {transform}; tau {tau}, {width} of the partition's spread",
            )
