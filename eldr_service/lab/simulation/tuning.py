"""Chooses the transform and width of `locality-band` within the part of a recording for fitting.

That part is split again: partitions are fitted on either half, one per transform, and the other
half is driven with each width, at the same load for half of the time. The lowest mean TPOT over
both wins. What is driven later has no influence: neither its requests nor its arrivals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.contender import Contender
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.fit import fit
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.traffic import Requests, Traffic
from eldr_service.lab.simulation.workload import Workload

WIDTHS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)  # shares of the partition's spread
TIME = 0.5  # to drive, as a share of the study's

Tried = Mapping[float, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen transform and width.

    Attributes
    ----------
    transform : str
    width : float
        Relative to the partition's spread.
    tried : mapping of transform to (mapping of width to mean TPOT in ms)
    """

    transform: str
    width: float
    tried: Mapping[str, Tried]

    @classmethod
    def of(cls, tried: Mapping[str, Tried]) -> "Choice":
        """The lowest of all; on ties the first."""
        pairs = [(transform, width) for transform in tried for width in tried[transform]]
        return cls(*min(pairs, key=lambda pair: tried[pair[0]][pair[1]]), tried)


def inner_workloads(
    recording: Recording,
    given: NDArray[np.int64],
    traffic: Traffic,
    seed: int,
    drive_all: bool = False,
) -> list[Workload]:
    """Split the given requests again: each half is driven once, with its own arrivals.

    Raises
    ------
    ValueError
        There is only one request, or none arrives.
    """
    if len(given) < 2:
        raise ValueError("width=tuned needs at least two requests to fit on")
    rng = np.random.default_rng([seed, 4])
    order = rng.permutation(given)
    halves = np.split(order, [(len(order) + 1) // 2])
    found = []
    for fitted, rest in (halves, halves[::-1]):
        own_seed = int(rng.integers(2**31))
        found.append(
            Workload(
                recording,
                fitted=fitted,
                driven=order if drive_all else rest,
                requests=_shorter(traffic, own_seed),
                seed=own_seed,
            )
        )
    return found


def _shorter(traffic: Traffic, seed: int) -> Requests:
    try:
        return replace(traffic, duration_s=traffic.duration_s * TIME).draw(seed)
    except ValueError:  # part of a trace may have no arrival
        return traffic.draw(seed)


def try_widths(
    contender: Contender, transform: str, workloads: Sequence[Workload], deployment: Deployment
) -> Tried:
    """Mean TPOT in ms for each width, over the workloads; infinite if one has no partition."""
    means = np.zeros(len(WIDTHS))
    for workload in workloads:
        slots = min(deployment.workers, len(workload.fitted))
        partition = fit(workload.recording, workload.fitted, transform, slots, workload.seed)
        if partition is None:
            return dict.fromkeys(WIDTHS, np.inf)
        for i, width in enumerate(WIDTHS):
            result = simulate(workload, contender.create(width), deployment, partition)
            means[i] += result.figures()["tpot_ms.mean"] / len(workloads)
    return dict(zip(WIDTHS, means.tolist(), strict=True))


def tune(
    contender: Contender,
    recording: Recording,
    given: NDArray[np.int64],
    traffic: Traffic,
    deployment: Deployment,
    seed: int,
) -> Choice:
    """Choose for a policy to be tuned, using only the given requests."""
    inner = inner_workloads(recording, given, traffic, seed)
    tried = {t: try_widths(contender, t, inner, deployment) for t in contender.transforms}
    return Choice.of(tried)
