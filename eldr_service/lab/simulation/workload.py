"""What all policies share: recordings to fit on, recordings to drive, requests."""

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import ActivationCounts
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.traffic import Requests, Traffic


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """The same offered load for every policy.

    Attributes
    ----------
    recording : Recording
    fitted, driven : ndarray of int64
        The recording's requests that a partition is fitted on, and those that are driven.
    requests : Requests
    seed : int
        Of the split, the requests and the order of recordings.
    shift_s : float
        Requests that arrive before it are from one half of the domains, later ones from the other.
    """

    recording: Recording
    _: KW_ONLY
    fitted: NDArray[np.int64]
    driven: NDArray[np.int64]
    requests: Requests
    seed: int
    shift_s: float = math.inf

    @classmethod
    def draw(
        cls,
        recording: Recording,
        traffic: Traffic,
        seed: int,
        calibration_fraction: float = 0.5,
        drive_all: bool = False,
        shift_s: float = math.inf,
    ) -> "Workload":
        """Split the recording and draw requests.

        Parameters
        ----------
        calibration_fraction : float
            Between 0 and 1: the share for fitting.
        drive_all : bool
            Drive the fitted part too. A partition does better on what it was fitted on; but if the
            rest is too small for the load, requests are copies of each other, which flatters
            locality even more (`Result.copies` counts them).
        shift_s : float
            When traffic changes; the partition is then fitted only on what comes before.

        Raises
        ------
        ValueError
            A part would have no request, or no request arrives.
        """
        if not 0 < calibration_fraction < 1:
            raise ValueError(
                f"the calibration fraction must be between 0 and 1, not {calibration_fraction}"
            )
        fitted, rest = split(recording, calibration_fraction, seed)
        driven = np.concatenate([fitted, rest]) if drive_all else rest
        if shift_s < math.inf:
            fitted = fitted[~later_half(recording, seed)[fitted]]
        drawn = cls(
            recording,
            fitted=fitted,
            driven=driven,
            requests=traffic.draw(seed),
            seed=seed,
            shift_s=shift_s,
        )
        if shift_s < math.inf and not (len(fitted) and 0 < drawn.late.sum() < len(driven)):
            raise ValueError("a shift needs at least two domains, with requests on both sides")
        return drawn

    @property
    def late(self) -> NDArray[np.bool_]:
        """Which of the driven come after the shift, shape [driven]; none without a shift."""
        if self.shift_s == math.inf:
            return np.zeros(len(self.driven), np.bool_)
        return later_half(self.recording, self.seed)[self.driven]

    @property
    def groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which recordings may stand for which requests: those of the same number.

        Returns
        -------
        of_driven : ndarray of int64, shape [driven]
            0, or 1 for those after the shift. With conversations, one number per domain.
        of_requests : ndarray of int64, shape [requests]
        """
        requests = self.requests
        if requests.prefixes is None:
            return self.late.astype(np.int64), (requests.times_s >= self.shift_s).astype(np.int64)
        _, domains = np.unique(self.recording.domains[self.driven], return_inverse=True)
        drawn = np.random.default_rng([self.seed, 4]).permutation(domains)
        return domains, drawn[requests.prefixes.conversations % len(drawn)]

    def prefill_counts(self, driven: int) -> ActivationCounts:
        """What the prefill of ``self.driven[driven]`` activated."""
        request, recording = int(self.driven[driven]), self.recording
        if recording.counts is None:
            return self._counts(recording.prefill(request))
        counts, tokens = recording.counts[request], recording.prefill_tokens(request)
        return ActivationCounts(recording.geometry, 0, counts, tokens)

    def first_counts(self, driven: int, share: float) -> ActivationCounts:
        """What the first tokens of that prefill activated, at least one."""
        tokens = self.recording.prefill(int(self.driven[driven]))
        seen = max(1, round(share * (tokens.stop - tokens.start)))
        return self._counts(slice(tokens.start, tokens.start + seen))

    def decode_counts(self, driven: int, output_tokens: int) -> ActivationCounts:
        """What its decode activated, repeated if it is recorded too short."""
        tokens = self.recording.decode(int(self.driven[driven]))
        laps, rest = divmod(output_tokens, tokens.stop - tokens.start)
        part = self._counts(slice(tokens.start, tokens.start + rest))
        if not laps:
            return part
        whole = self._counts(tokens)
        return ActivationCounts(
            self.recording.geometry,
            0,
            (laps * whole.counts + part.counts).astype(np.uint32),
            output_tokens,
        )

    def _counts(self, tokens: slice) -> ActivationCounts:
        counts = self.recording.counts_of(tokens)
        return ActivationCounts(self.recording.geometry, 0, counts, tokens.stop - tokens.start)


def later_half(recording: Recording, seed: int) -> NDArray[np.bool_]:
    """Which recorded requests are of the domains after a shift, shape [requests].

    Domains in an order drawn by `seed`, cut where the two sides are most equal in size.
    """
    domains, which, sizes = np.unique(recording.domains, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 3]).permutation(len(domains))
    cut = np.argmin(np.abs(np.cumsum(sizes[order]) - sizes.sum() / 2))
    later: NDArray[np.bool_] = np.isin(which, order[cut + 1 :])
    return later


def split(
    recording: Recording, calibration_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Requests to fit on and to drive, drawn by `seed`; ValueError if there are too few.

    Requests without a token on either side are left out: there is nothing to route by, or nothing
    to decode.
    """
    whole = [
        r
        for r in range(recording.num_requests)
        if recording.prefill_tokens(r) and recording.decode(r).stop > recording.decode(r).start
    ]
    shuffled = np.random.default_rng(seed).permutation(np.array(whole, dtype=np.int64))
    fitted, driven = np.split(shuffled, [math.ceil(len(whole) * calibration_fraction)])
    if not (len(fitted) and len(driven)):
        raise ValueError(f"{len(whole)} complete requests are too few to split")
    return fitted, driven


def oracle_labels(
    recording: Recording, fitted: NDArray[np.int64], workers: int, as_recorded: bool = True
) -> list[str]:
    """Each worker's label `domain`: workers divided by the fitted requests' decode tokens.

    If outputs are not `as_recorded`, their length does not depend on the domain, and requests are
    counted instead.

    Domains lie end to end on a line as long as there are workers, each as long as its share. A
    domain gets the workers whose unit of the line is mostly its own or, if it is too short for
    that, the one in which it lies.
    """
    tokens: dict[str, int] = {}
    for r in fitted.tolist():
        decode = recording.decode(r)
        domain = str(recording.domains[r])
        weight = decode.stop - decode.start if as_recorded else 1
        tokens[domain] = tokens.get(domain, 0) + weight
    scale = workers / sum(tokens.values())
    serves: list[list[str]] = [[] for _ in range(workers)]
    end = 0.0
    for domain in sorted(tokens):
        start, end = end, end + tokens[domain] * scale
        own = range(round(start), round(end)) or [min(int((start + end) / 2), workers - 1)]
        for worker in own:
            serves[worker].append(domain)
    return [",".join(domains) for domains in serves]
