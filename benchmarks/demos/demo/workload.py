"""What all policies share: halves of the recording, arrivals, workers, costs."""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.arrivals import poisson_arrivals
from eldr_service.lab.simulation.cost import StepCost
from eldr_service.lab.simulation.workload import oracle_labels, split

# With about ten recordings per worker in each half, centroids are meaningful means, and batches
# fill without exhausting the recordings.
RECORDINGS_A_WORKER = 10
MOST_WORKERS = 16


@dataclass(frozen=True)
class Workload:
    """The same offered load for every policy.

    Attributes
    ----------
    recording : Recording
    fitted, driven : ndarray of int64
        Requests of the recording: the half that the partition is fitted on, and the other, which
        is driven.
    workers : int
    rate : float
        Arrivals per second of virtual time.
    arrivals : ndarray of float64
        Their times.
    cost : StepCost
    seed : int
        The seed of the split, the arrivals and the order of recordings.
    """

    recording: Recording
    _: KW_ONLY
    fitted: NDArray[np.int64]
    driven: NDArray[np.int64]
    workers: int
    rate: float
    arrivals: NDArray[np.float64]
    cost: StepCost
    seed: int

    @classmethod
    def make(
        cls,
        recording: Recording,
        cost: StepCost,
        *,
        workers: int | None,
        rate: float | None,
        requests: int,
        seed: int,
    ) -> "Workload":
        """Split and draw; about `requests` arrivals. None: a default that suits the recording.

        ValueError if there are too few requests.
        """
        fitted, driven = split(recording, 0.5, seed)
        workers = workers or default_workers(len(driven))
        if not 1 <= workers <= len(driven):
            raise ValueError(f"{workers} workers need as many requests to fit on: {len(driven)}")
        rate = rate or default_rate(recording, driven, workers, cost)
        arrivals = poisson_arrivals(rate, requests / rate, seed)
        return cls(
            recording,
            fitted=fitted,
            driven=driven,
            workers=workers,
            rate=rate,
            arrivals=arrivals,
            cost=cost,
            seed=seed,
        )

    @property
    def report_interval_s(self) -> float:
        """Virtual seconds between the engines' reports: 1, or less to get ten reports."""
        return min(1.0, float(self.arrivals[-1]) / 10)

    @cached_property
    def oracle(self) -> list[str]:
        """Each worker's label `domain`."""
        return oracle_labels(self.recording, self.fitted, self.workers)


def default_workers(driven: int) -> int:
    """The power of two that gives each worker about ten recordings, at most 16."""
    workers = 1
    while workers < MOST_WORKERS and 2 * workers * RECORDINGS_A_WORKER <= driven:
        workers *= 2
    return workers


def default_rate(
    recording: Recording, driven: NDArray[np.int64], workers: int, cost: StepCost
) -> float:
    """Arrivals per second that keep about half of the driven recordings in flight.

    With more, arrivals would often find none free; with fewer, batches would be small. By Little's
    law, with the active experts of a batch of independent tokens.
    """
    decodes = [recording.decode(r) for r in driven.tolist()]
    tokens = sum(d.stop - d.start for d in decodes)
    in_flight = len(driven) / 2
    step_s = expected_step_s(recording, driven, in_flight / workers, cost)
    rate = in_flight / (tokens / len(driven) * step_s)
    return float(f"{rate:.2g}")


def expected_step_s(
    recording: Recording, driven: NDArray[np.int64], batch: float, cost: StepCost
) -> float:
    """Seconds of a step with a batch (at least 1) of independent tokens, midway through decodes."""
    decodes = [recording.decode(r) for r in driven.tolist()]
    tokens = sum(d.stop - d.start for d in decodes)
    picked = sum(recording.counts_of(d) for d in decodes) / tokens
    batch = max(1.0, batch)
    active = (1 - (1 - picked) ** batch).sum()
    prompts = sum(map(recording.prefill_tokens, driven.tolist()))
    context = (prompts + tokens / 2) / len(driven)
    each_us = cost.per_sequence_us + cost.per_context_token_us * context
    layers_us = recording.geometry.num_layers * (cost.per_layer_us + each_us * batch)
    return 1e-6 * float(cost.fixed_us + layers_us + cost.per_expert_us * active)
