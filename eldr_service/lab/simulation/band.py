"""How wide a locality band was, in units of cosine and of the partition's spread."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eldr_service.core.partition import Partition
from eldr_service.policies import Policy
from eldr_service.policies.locality_band import LocalityBand


@dataclass(frozen=True, slots=True)
class Band:
    """The locality band of one run.

    Attributes
    ----------
    transform : str
        The partition's.
    tau : float
        Width in units of cosine.
    width : float
        Width in units of the partition's spread; NaN if that is 0.
    """

    transform: str
    tau: float
    width: float

    @classmethod
    def of(cls, policy: Policy, partition: Partition | None) -> "Band | None":
        """The policy's band; None for another policy, or without a partition."""
        if partition is None or not isinstance(policy, LocalityBand):
            return None
        spread = partition.spread
        tau = policy.tau(spread)
        return cls(partition.transform.name, tau, tau / spread if spread else math.nan)


def in_words(bands: Sequence[Band | None]) -> tuple[str, str, str] | None:
    """Transform, tau and width over the seeds; None if there was no band."""
    known = [band for band in bands if band is not None]
    if not known:
        return None
    transforms = Counter(band.transform for band in known).most_common()
    named = [f"{name} {n} of {len(known)}" if n < len(known) else name for name, n in transforms]
    return ", ".join(named), _range(b.tau for b in known), _range(b.width for b in known)


def _range(values: Iterable[float]) -> str:
    written = [f"{value:.2g}" for value in sorted(values)]
    return written[0] if written[0] == written[-1] else f"{written[0]} to {written[-1]}"
