"""What a report simulates: a base study, and sweeps that each change one thing in it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from eldr_service.lab.recordings import Recording
from eldr_service.lab.reports.load import (
    MOST_BATCH,
    beside_experts_us,
    mean_output,
    mean_prompt,
    rate_for,
    rounded,
)
from eldr_service.lab.simulation.comparison import LOAD_ONLY
from eldr_service.lab.simulation.contender import names
from eldr_service.lab.simulation.cost import moe_layers
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.study import Study, steps
from eldr_service.lab.simulation.traces import Trace
from eldr_service.policies.registry import parse

Value = float

EVALUATION_ONLY = "domain-oracle"  # it sees what no router does


def name_of(policy: str) -> str:
    """The policy without its parameters."""
    return policy.partition(":")[0]


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of each sweep; relative ones are multiples of the base study's value."""

    rates: tuple[float, ...] = (0.4, 0.7, 1.0, 1.3, 1.6)
    workers: tuple[float, ...] = (0.5, 0.625, 0.75, 0.8125, 0.875, 0.9375, 1.0, 1.25)
    outputs: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    taus: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    tails: tuple[float, ...] = (0.0, 0.05, 0.1, 0.3, 1.0)
    shares: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    domains: tuple[float, ...] = (0.3, 0.5, 0.8, 1.0)
    costs: tuple[float, ...] = (2.0,)


QUICK = Points(
    rates=(0.5, 1.0, 1.5),
    workers=(0.75, 0.875, 1.0, 1.25),
    outputs=(1.0, 2.0),
    taus=(0.0, 0.1, 0.2),
    tails=(0.0, 0.05, 0.3),
    shares=(0.25, 1.0),
    domains=(0.5, 1.0),
    costs=(),
)


@dataclass(frozen=True)
class Sweep:
    """One study per value of a parameter.

    `policies` are those that the parameter affects; the others are the base study's.
    """

    name: str
    parameter: str
    values: tuple[Value, ...]
    studies: tuple[Study, ...]
    policies: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """All studies of a report.

    Attributes
    ----------
    base : Study
    recording : Recording
        The recording of `base.activations`.
    sweeps : dict of name to Sweep
        Those that make sense for the policies and the recording.
    """

    base: Study
    recording: Recording
    sweeps: dict[str, Sweep] = field(default_factory=dict)

    def studies(self) -> list[Study]:
        """The base study and those of all sweeps, each once."""
        studies = [study for sweep in self.sweeps.values() for study in sweep.studies]
        return list(dict.fromkeys([self.base, *studies]))

    def runs(self) -> int:
        """Number of steps of `run_studies`."""
        return sum(steps(study) for study in self.studies())


def make_plan(
    base: Study,
    recording: Recording,
    kinds: Sequence[Engine],
    points: Points,
    wanted: Sequence[str] | None = None,
) -> Plan:
    """Lay out the sweeps around a base study.

    Parameters
    ----------
    kinds : sequence of Engine
        Taken in turn by a larger or smaller deployment.
    points : Points
    wanted : sequence of str
        Names of sweeps; by default all.
    """
    makers = {
        "rate": _rates,
        "workers": _workers,
        "tau": _taus,
        "tail": _tails,
        "window": _window,
        "domains": _domains,
        "output": _outputs,
        "cost": _costs,
    }
    sweeps = {}
    for name, maker in makers.items():
        if wanted is None or name in wanted:
            sweep = maker(base, recording, kinds, points)
            if sweep is not None:
                sweeps[name] = replace(sweep, studies=tuple(_tuned_in(base, sweep.studies)))
    return Plan(base, recording, sweeps)


def _tuned_in(base: Study, studies: Sequence[Study]) -> Iterator[Study]:
    """Tune policies once, at the base study's load, and keep the result on every sweep."""
    for study in studies:
        yield study if study == base else replace(study, tuned_in=base)


def _rates(base: Study, recording: Recording, kinds: Sequence[Engine], points: Points) -> Sweep:
    traffic = base.traffic
    own = traffic.rate_per_s or (traffic.trace.rate_per_s if traffic.trace else 0.0)
    # Equally many requests at every rate, for equal precision.
    pairs = []
    for share in points.rates:
        rate = own if share == 1 else rounded(own * share, 3)
        changed = replace(traffic, rate_per_s=rate, duration_s=traffic.duration_s * own / rate)
        pairs.append((rate, base if share == 1 else replace(base, traffic=changed)))
    return _sweep("rate", "arrivals per second", pairs, base.policies)


def _workers(base: Study, recording: Recording, kinds: Sequence[Engine], points: Points) -> Sweep:
    own, ranks = base.deployment.workers, kinds[0].ranks
    around = base.deployment
    numbers = {max(1, round(own * share / ranks)) * ranks for share in points.workers} | {own}
    most = math.floor(recording.num_requests * base.calibration_fraction)  # a slot needs a request
    pairs = []
    for number in sorted(n for n in numbers if n <= max(most, own)):
        deployment = Deployment.in_turn(
            kinds, number, prefill=around.prefill, transfer=around.transfer
        )
        pairs.append((number, base if number == own else replace(base, deployment=deployment)))
    return _sweep("workers", "decode workers", pairs, base.policies)


def _outputs(
    base: Study, recording: Recording, kinds: Sequence[Engine], points: Points
) -> Sweep | None:
    """Longer answers with the same number of requests in flight: the rate falls as they grow."""
    given = base.traffic.output_tokens
    if isinstance(given, Trace) or (given is None and base.traffic.trace is not None):
        return None  # lengths are from a trace
    mean = mean_output(recording, base.traffic.output_tokens)
    pairs = []
    for share in points.outputs:
        tokens = max(2, round(mean * share))
        traffic = base.traffic
        rate = traffic.rate_per_s or (traffic.trace.rate_per_s if traffic.trace else 0.0)
        changed = replace(
            traffic,
            output_tokens=tokens,
            rate_per_s=rounded(rate * mean / tokens, 3),
            duration_s=rounded(traffic.duration_s * tokens / mean, 3),
        )
        pairs.append((tokens, replace(base, traffic=changed)))
    return _sweep("output", "output tokens of a request", pairs, base.policies)


def _costs(
    base: Study, recording: Recording, kinds: Sequence[Engine], points: Points
) -> Sweep | None:
    """Other costs beside the experts', with about as many requests in flight: the rate follows."""
    if not points.costs:
        return None
    engines, traffic, layers = base.deployment.engines, base.traffic, recording.geometry.num_layers
    own = traffic.rate_per_s or (traffic.trace.rate_per_s if traffic.trace else 0.0)
    prompt = mean_prompt(recording, traffic.trace)
    output = mean_output(recording, traffic.output_tokens or traffic.trace)
    batch = 1
    while batch < MOST_BATCH and rate_for(engines, recording, batch, prompt, output) < own:
        batch += 1 + batch // 4

    def beside(engines: Sequence[Engine]) -> float:
        context = prompt + output / 2
        return sum(beside_experts_us(e.cost, layers, batch, context) for e in engines)

    others = [[engine.cost.beside_experts(times) for engine in engines] for times in points.costs]
    alone = [cost for engine in engines if (cost := moe_layers(engine.cost.name))]
    if len(alone) == len(engines):
        others.append(alone)
    pace = rate_for(engines, recording, batch, prompt, output)
    pairs = [(1.0, base)]
    for costs in others:
        changed = tuple(replace(e, cost=cost) for e, cost in zip(engines, costs, strict=True))
        slower = pace / rate_for(changed, recording, batch, prompt, output)
        stretched = replace(
            traffic,
            rate_per_s=rounded(own / slower, 3),
            duration_s=rounded(traffic.duration_s * slower, 3),
        )
        study = replace(
            base, deployment=replace(base.deployment, engines=changed), traffic=stretched
        )
        pairs.append((rounded(beside(changed) / beside(engines)), study))
    return _sweep("cost", "times all but the experts", pairs, base.policies)


def _taus(
    base: Study, recording: Recording, kinds: Sequence[Engine], points: Points
) -> Sweep | None:
    return _parameter(base, "tau", "locality-band", points.taus)


def _tails(
    base: Study, recording: Recording, kinds: Sequence[Engine], points: Points
) -> Sweep | None:
    return _parameter(base, "tail", "marginal-cost", points.tails)


def _parameter(base: Study, key: str, name: str, values: tuple[float, ...]) -> Sweep | None:
    of_name = {policy: parse(policy)[1] for policy in base.policies if name_of(policy) == name}
    found = [policy for policy, parameters in of_name.items() if "width" not in parameters]
    if not found:
        return None
    policy = found[0]
    pairs = []
    for value in values:
        parameters = of_name[policy] | {key: f"{value:g}"}
        written = f"{name}:" + ",".join(f"{k}={v}" for k, v in parameters.items())
        pairs.append((value, replace(base, policies=(written,))))
    return _sweep(key, f"{key} of {names(base.policies)[policy]}", pairs, (policy,))


def _window(
    base: Study, recording: Recording, kinds: Sequence[Engine], points: Points
) -> Sweep | None:
    """The partition is fitted on fewer of the requests available; the driven ones stay the same."""
    fitted = len(base.workload(base.seeds[0]).fitted)
    pairs = [(math.ceil(fitted * s), replace(base, fit_share=s)) for s in points.shares]
    return _fitting(base, "window", "requests that the partition was fitted on", pairs)


def _domains(
    base: Study, recording: Recording, kinds: Sequence[Engine], points: Points
) -> Sweep | None:
    """The partition has seen only some domains, like one that is older than the others."""
    domains = len(set(recording.domains.tolist()))
    if domains < 2:
        return None
    pairs = {math.ceil(domains * s): replace(base, fit_domains=s) for s in points.domains}
    return _fitting(base, "domains", "domains that the partition has seen", list(pairs.items()))


def _fitting(
    base: Study, name: str, parameter: str, pairs: Sequence[tuple[Value, Study]]
) -> Sweep | None:
    """For policies that read the partition; a slot needs a request under every seed."""
    reading = tuple(p for p in base.policies if name_of(p) not in (*LOAD_ONLY, EVALUATION_ONLY))
    kept = [
        (value, replace(study, policies=reading))
        for value, study in pairs
        if all(
            len(study.seen(base.workload(seed))) >= base.deployment.workers for seed in base.seeds
        )
    ]
    return _sweep(name, parameter, kept, reading) if reading and kept else None


def _sweep(
    name: str, parameter: str, pairs: Sequence[tuple[Value, Study]], policies: tuple[str, ...]
) -> Sweep:
    ordered = dict(sorted(pairs, key=lambda pair: pair[0]))
    return Sweep(name, parameter, tuple(ordered), tuple(ordered.values()), policies)
