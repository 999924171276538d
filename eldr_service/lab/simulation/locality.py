"""How much locality a recording has, for a router to use."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.signature import SignatureTransform
from eldr_service.lab.recordings import Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalityStatistics:
    """Similarity of prefills and decodes, and what it saves in a batch.

    Attributes
    ----------
    own, same_domain, other_domain : float
        Mean cosine of the sqrt counts of a request's prefill and its own decode, the decode of
        another request of its domain, and of one of another domain. NaN without such pairs.
    active_experts_6, active_experts_12 : float
        Mean distinct experts per layer of 6 and 12 decode tokens, all of different requests.
    alike_6, alike_12 : float
        The same for the requests, among four times as many, whose prefills are most similar to one
        of them: about what four decode workers can gain. The cosines alone do not show this, since
        requests can differ much without falling into groups.
    """

    own: float
    same_domain: float
    other_domain: float
    active_experts_6: float
    active_experts_12: float
    alike_6: float
    alike_12: float


def locality_statistics(recording: Recording, seed: int = 0) -> LocalityStatistics:
    """Measure a recording; `seed` draws the batches. ValueError below 48 requests."""
    n = recording.num_requests
    if n < 48:
        raise ValueError(f"locality needs at least 48 requests, found {n}")
    transform = SignatureTransform(recording.geometry, "sqrt")
    decodes = np.stack([recording.counts_of(recording.decode(r)) for r in range(n)])
    signatures = transform.apply(recording.prefill_counts())
    cosine = signatures @ transform.apply(decodes).T
    own = np.eye(n, dtype=bool)
    same = recording.domains[:, None] == recording.domains[None, :]

    def mean(pairs: np.ndarray) -> float:
        return float(cosine[pairs].mean()) if pairs.any() else float("nan")

    rng = np.random.default_rng(seed)
    alikeness = signatures @ signatures.T
    active_6, alike_6 = _active_experts(recording, alikeness, 6, rng)
    active_12, alike_12 = _active_experts(recording, alikeness, 12, rng)
    return LocalityStatistics(
        own=mean(own),
        same_domain=mean(same & ~own),
        other_domain=mean(~same),
        active_experts_6=active_6,
        active_experts_12=active_12,
        alike_6=alike_6,
        alike_12=alike_12,
    )


def _active_experts(
    recording: Recording,
    alikeness: NDArray[np.float32],
    batch: int,
    rng: np.random.Generator,
    draws: int = 2000,
) -> tuple[float, float]:
    """Mean distinct experts per layer in batches of random requests, and of similar ones."""
    assert recording.expert_ids is not None
    layers = np.arange(recording.geometry.num_layers)[:, None]
    decodes = [recording.decode(r) for r in range(recording.num_requests)]
    starts, stops = np.array([(tokens.start, tokens.stop) for tokens in decodes]).T
    means = np.empty((draws, 2))
    for i in range(draws):
        drawn = rng.choice(len(decodes), 4 * batch, replace=False)
        like = drawn[np.argsort(-alikeness[drawn[0], drawn])]
        for j, requests in enumerate((drawn[:batch], like[:batch])):
            tokens = rng.integers(starts[requests], stops[requests])
            touched = np.zeros((len(layers), recording.geometry.num_experts), dtype=bool)
            touched[layers, recording.expert_ids[tokens]] = True
            means[i, j] = touched.sum(axis=1).mean()
    mixed, alike = means.mean(axis=0).tolist()
    return mixed, alike


def mixed_active_experts(
    recording: Recording, batch: int, draws: int = 400, seed: int = 0
) -> float:
    """Mean distinct experts per layer of `batch` decode tokens of random requests.

    If the batch is larger than the recording, requests have several tokens in it.
    """
    assert recording.expert_ids is not None
    rng = np.random.default_rng(seed)
    spans = [recording.decode(r) for r in range(recording.num_requests)]
    starts, stops = np.array([(t.start, t.stop) for t in spans if t.stop > t.start]).T
    layers = np.arange(recording.geometry.num_layers)[:, None]
    total = 0
    for _ in range(draws):
        requests = rng.choice(len(starts), batch, replace=batch > len(starts))
        tokens = rng.integers(starts[requests], stops[requests])
        touched = np.zeros((len(layers), recording.geometry.num_experts), dtype=bool)
        touched[
            layers, recording.expert_ids[tokens].transpose(1, 0, 2).reshape(len(layers), -1)
        ] = True
        total += int(touched.sum())
    return total / (draws * len(layers))
