"""Chooses the signature transform that suits a model's requests best, judged on held-out requests.

Signatures of different transforms cannot be compared: their cosines have different scales. The
purpose of the partition can: how many experts a decode step touches.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.signature import TRANSFORMS, SignatureTransform, TransformName, idf_of
from eldr_service.fitting.active_experts import predicted, shares
from eldr_service.fitting.counts import Counts, checked_counts
from eldr_service.fitting.layer_choice import most_telling_half
from eldr_service.fitting.lloyd import assign, cluster, seed_centers

ChoiceProgress = Callable[[int, int], None]

# Used if there are too few requests to hold any out: it needs no calibration data, unlike idf,
# and long rows of counts do not dominate, unlike with plain counts.
WITHOUT_EVIDENCE = "sqrt"

_JUDGED = 2_048  # fewest requests, if there are as many; more would not change the choice
_JUDGED_OF_CLUSTER = 8  # per cluster: four fitted, four held out


class Candidate(NamedTuple):
    """A transform, and whether it keeps half of the layers (`layer_choice`)."""

    name: str
    masked: bool = False

    def __str__(self) -> str:
        return f"{self.name}, half of the layers" if self.masked else self.name


class _Judged(NamedTuple):
    """Requests for the choice: counts, and shares of each layer's picks [n, L, E]."""

    counts: Counts
    prefill: NDArray[np.float32]
    decode: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "_Judged":
        part = checked_counts(self.counts.dense(rows), self.counts.geometry)
        return _Judged(part, self.prefill[rows], self.decode[rows])


def calibrated(name: str, counts: Counts, layers: NDArray[np.int64]) -> SignatureTransform:
    """Create the transform `name`; its idf, if it has one, is computed from `counts`."""
    idf = idf_of(counts.used_by(), len(counts)) if name == "counts-idf" else None
    return SignatureTransform(counts.geometry, cast(TransformName, name), layers, idf)


def choose_transform(
    counts: Counts,
    decode_counts: Counts | None,
    layers: NDArray[np.int64] | None,
    n_clusters: int,
    max_iter: int,
    random_state: int,
    progress: ChoiceProgress | None = None,
) -> tuple[str, NDArray[np.int64], dict[str, float]]:
    """Score transforms by the experts that held-out requests would touch in their clusters.

    The requests, or 2,048 of them drawn at random (8 per cluster if that is more), are shuffled and
    halved. Each half in turn calibrates the transform and is clustered; the other half is assigned
    to the clusters with the same balance. The score is the mean of `active_experts.predicted` with
    the shares of their decodes; lower is better.

    A mask is taken only if it is better on both halves: omitted layers cost nothing in the score,
    and chance would favour one of so many candidates. Without decode counts the prefills' are used
    instead, and no mask is tried: only decodes can tell which layers predict the decode.

    Parameters
    ----------
    counts : Counts
        Of n prefills, n at least ``2 * n_clusters``.
    decode_counts : Counts, optional
        Of the same requests' decodes.
    layers : ndarray of int64, optional
        Layers to keep. If None, all, and with decode counts also `most_telling_half`, determined on
        each fitted half.
    n_clusters, max_iter, random_state : int
    progress : callable of (fits done, fits in all), optional

    Returns
    -------
    name : str
        The best transform's.
    layers : ndarray of int64
        The layers to keep with it.
    scores : dict of name to float
        Experts per layer for every candidate; infinite if a half has no signature at all.
    """
    geometry = counts.geometry
    most = max(_JUDGED, _JUDGED_OF_CLUSTER * n_clusters)
    order = np.random.default_rng(random_state).permutation(len(counts))[:most]
    judged = _judged(counts, decode_counts, order)
    everything = np.arange(geometry.num_layers)
    masks = layers is None and decode_counts is not None and geometry.num_layers > 1
    candidates = [
        Candidate(name, masked) for masked in (False, True)[: 1 + masks] for name in TRANSFORMS
    ]

    totals: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
    rows = np.arange(len(order))
    halves = judged.take(rows[::2]), judged.take(rows[1::2])
    for done, (fitted, held_out) in enumerate((halves, halves[::-1])):
        half = most_telling_half(fitted.prefill, fitted.decode) if masks else everything
        for at, candidate in enumerate(candidates, done * len(candidates) + 1):
            kept = half if candidate.masked else everything if layers is None else layers
            transform = calibrated(candidate.name, fitted.counts, kept)
            totals[candidate].append(
                _total(transform, fitted, held_out, n_clusters, max_iter, random_state)
            )
            if progress is not None:
                progress(at, 2 * len(candidates))

    best = min(candidates[: len(TRANSFORMS)], key=lambda candidate: sum(totals[candidate]))
    layers = everything if layers is None else layers
    if masks:
        masked = min(candidates[len(TRANSFORMS) :], key=lambda candidate: sum(totals[candidate]))
        if all(np.less(totals[masked], totals[best])):
            best, layers = masked, most_telling_half(judged.prefill, judged.decode)
    scores = {str(candidate): sum(total) / len(order) for candidate, total in totals.items()}
    return best.name, layers, scores


def _judged(counts: Counts, decode_counts: Counts | None, rows: NDArray[np.int64]) -> _Judged:
    dense = counts.dense(rows)
    prefill = shares(dense)
    decode = prefill if decode_counts is None else shares(decode_counts.dense(rows))
    return _Judged(checked_counts(dense, counts.geometry), prefill, decode)


def _total(
    transform: SignatureTransform,
    fitted: _Judged,
    held_out: _Judged,
    n_clusters: int,
    max_iter: int,
    random_state: int,
) -> float:
    """Sum of the scores of held-out requests."""
    signatures = fitted.counts.signatures(transform)
    if not signatures.whole().any():
        return np.inf
    start = seed_centers(signatures, n_clusters, np.random.default_rng(random_state))
    clustering = cluster(signatures, start, max_iter)
    labels, _ = assign(held_out.counts.signatures(transform), clustering.centers)
    return float(predicted(held_out.decode, labels, fitted.decode, clustering.labels).sum())
