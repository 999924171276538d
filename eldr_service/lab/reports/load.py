"""How many requests a worker holds at a rate, by Little's law, and which loads are informative."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eldr_service.lab.recordings import Recording
from eldr_service.lab.reports.words import plain
from eldr_service.lab.simulation.cost import StepCost
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.locality import mixed_active_experts
from eldr_service.lab.simulation.traces import Trace

BATCH = 8  # requests per worker at the default rate, if the recording is large enough
MOST_BATCH = 256  # highest batch for which a rate is computed
TELLING = 2.0  # requests per worker, below which they share too little for any choice to matter
WORKERS = 16  # by default
MOST_IN_FLIGHT = 0.5  # most of the driven requests in flight at once by default: copies flatter


def mean_output(recording: Recording, output_tokens: int | Trace | None) -> float:
    """Mean output tokens of a request."""
    if isinstance(output_tokens, Trace):
        return int(output_tokens.output_tokens.sum()) / len(output_tokens.output_tokens)
    if output_tokens is not None:
        return float(output_tokens)
    spans = [recording.decode(r) for r in range(recording.num_requests)]
    tokens: int = sum(t.stop - t.start for t in spans)
    return tokens / len(spans)


def mean_prompt(recording: Recording, trace: Trace | None) -> float:
    """Mean prompt tokens: the trace's, else those of the recorded prefills."""
    if trace is not None:
        return float(trace.prompt_tokens.mean())
    lengths = [recording.prefill_tokens(r) for r in range(recording.num_requests)]
    return sum(lengths) / len(lengths)


def in_flight(deployment: Deployment, driven: int) -> int:
    """Requests in flight at the default rate, for `driven` recorded requests."""
    return max(1, int(min(BATCH * deployment.workers, MOST_IN_FLIGHT * driven)))


def default_rate(
    recording: Recording,
    deployment: Deployment,
    output_tokens: float,
    driven: int,
) -> float:
    """Arrivals per second that keep about eight requests on every worker, by Little's law.

    Fewer if the recording is so small that more than half of the driven requests would be in
    flight. Two significant digits.
    """
    batch = max(1, in_flight(deployment, driven) // deployment.workers)
    prompt = mean_prompt(recording, None)
    return rounded(rate_for(deployment.engines, recording, batch, prompt, output_tokens))


def rate_for(
    engines: Iterable[Engine], recording: Recording, batch: int, prompt: float, output: float
) -> float:
    """Arrivals per second that keep `batch` requests of `tokens` tokens on every worker."""
    layers = recording.geometry.num_layers
    experts = layers * mixed_active_experts(recording, batch)
    rate = 0.0
    for engine in engines:
        beside_us = beside_experts_us(engine.cost, layers, batch, prompt + output / 2)
        step_us = beside_us + engine.cost.per_expert_us * experts
        rate += engine.ranks * batch / (output * step_us * 1e-6)
    return rate


def beside_experts_us(cost: StepCost, layers: int, batch: int, context: float) -> float:
    """The part of a step that does not depend on the experts; context is per request."""
    fixed, layer, _, sequence, token = cost.coefficients
    return fixed + layers * (layer + batch * (sequence + token * context))


def rounded(value: float, digits: int = 2) -> float:
    """Round to `digits` significant digits."""
    return float(f"{value:.{digits}g}")


def requests_held(
    engines: Iterable[Engine], recording: Recording, rate: float, prompt: float, output: float
) -> float:
    """Requests per worker at a rate per second; `MOST_BATCH` if they pile up."""
    engines = tuple(engines)
    low, at_low = 0, 0.0
    batch = 1
    while batch <= MOST_BATCH:
        at = rate_for(engines, recording, batch, prompt, output)
        if at >= rate:
            return low + (batch - low) * (rate - at_low) / (at - at_low)
        low, at_low, batch = batch, at, batch + 1 + batch // 4
    return float(MOST_BATCH)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The load that was asked for.

    Attributes
    ----------
    workers : int or None
    rate_per_s, duration_s : float or None
        The rate is for these workers; None if not given, or if a trace's own is meant.
    trace : Trace or None
    output_tokens : int, Trace or None
    driven : int
        Requests of the recording that are driven.
    residences : float
        Default duration, in mean residence times of a request.
    """

    workers: int | None
    rate_per_s: float | None
    duration_s: float | None
    trace: Trace | None
    output_tokens: int | Trace | None
    driven: int
    residences: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load that is simulated.

    Attributes
    ----------
    deployment : Deployment
    rate_per_s : float or None
        None: a trace's own.
    duration_s : float
    note : str
        Why it differs from what was asked for; empty if it does not.
    """

    deployment: Deployment
    rate_per_s: float | None
    duration_s: float
    note: str


def pick_load(
    asked: Asked, recording: Recording, deployment_of: Callable[[int], Deployment], step: int = 1
) -> Load:
    """The load that was asked for, or another if that leaves workers with too few requests to tell.

    A rate that is too low is raised to the default one. If the recording is too small for the
    default fleet, the fleet is smaller; a requested fleet stays.

    Parameters
    ----------
    deployment_of : callable
        Makes a deployment of that many workers.
    step : int
        Workers come in multiples of this: the ranks of an engine.
    """
    deployment = deployment_of(asked.workers or WORKERS)
    output = mean_output(recording, asked.output_tokens or asked.trace)
    prompt = mean_prompt(recording, None)
    own = asked.rate_per_s or (asked.trace.rate_per_s if asked.trace else None)
    note = ""

    def held(rate: float) -> float:
        return requests_held(deployment.engines, recording, rate, prompt, output)

    offered = own or default_rate(recording, deployment, output, asked.driven)
    if (few := held(offered)) < TELLING:
        found = f"{plain(offered)} requests per second" if own else "the recording"
        if asked.workers is None and in_flight(deployment, asked.driven) < TELLING * WORKERS:
            fewer = int(in_flight(deployment, asked.driven) // (2 * TELLING))
            deployment = deployment_of(max(1, fewer // step) * step if step > 1 else max(2, fewer))
        telling = default_rate(recording, deployment, output, asked.driven)
        if held(telling) >= TELLING:
            note = (
                f"The load is too small to tell: {found} would leave {plain(rounded(few))} requests"
                f" on each of {asked.workers or WORKERS} workers, and a step with so few has almost"
                f" nothing to share. Simulated instead: {plain(telling)} requests per second on"
                f" {deployment.workers} workers, which keeps about"
                f" {plain(rounded(held(telling)))} on each."
            )
            offered = telling
    duration = asked.duration_s
    if duration is None:
        requests = max(200, asked.residences * in_flight(deployment, asked.driven))
        duration = rounded(requests / offered)
    elif note and own:
        duration = rounded(duration * own / offered)
    rate = offered if note or asked.trace is None else asked.rate_per_s
    return Load(deployment=deployment, rate_per_s=rate, duration_s=duration, note=note)
