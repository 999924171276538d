"""Which experts a decode will use: the prefill's, corrected by what finished decodes have taught.

    p = mean of prefills + drift + reliability[layer] x departure + residuals of similar requests

`departure` is the prefill's from the mean of prefills, which counts as 16 tokens. The other terms
are learned from the `decode_counts` that releases bring: `drift` is how decodes differ from
prefills on the whole, `reliability` how much of a departure lasts (per layer, by least squares),
and the residuals are what the 8 most similar of the 128 requests that finished last did beyond
that (see `kernels.expert_prediction`). A prior of 4 requests pulls drift to 0 and reliability to 1,
so that without any decode counts this is the shrunken prefill.
"""

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels.expert_prediction import departure, predict_use, sketch

TOKENS_OF_MEAN = 16.0
PRIOR_REQUESTS = 4.0
REMEMBERED = 128
SKETCH = 256
_WINDOW = 1_000  # requests over which means forget


class ExpertPrediction:
    """Predictions for one geometry.

    Parameters
    ----------
    num_layers, num_experts, top_k : int
    """

    def __init__(self, num_layers: int, num_experts: int, top_k: int) -> None:
        self.shape = num_layers, num_experts
        self.top_k = top_k
        size = num_layers * num_experts
        self._prefills = self._decodes = 0
        self._mean = np.full(self.shape, top_k / num_experts, np.float32)
        self._drift = np.zeros(self.shape, np.float32)
        self._squares = np.zeros(num_layers)  # of departures, and their products with decodes'
        self._products = np.zeros(num_layers)
        self._base = self._mean
        self._reliability = np.ones(num_layers, np.float32)
        self._sketches = np.zeros((REMEMBERED, SKETCH), np.float32)
        self._residuals = np.zeros((REMEMBERED, size), np.float32)
        rng = np.random.default_rng(0)
        self._buckets = rng.integers(0, SKETCH, size)
        self._signs = rng.choice(np.array([-1, 1], np.float32), size)

    def predict(self, counts: NDArray[np.integer] | None) -> NDArray[np.float32]:
        """Probability that a token of the decode uses each expert, shape [layers * experts].

        Of a request without counts, that of the mean request.
        """
        if counts is None:
            return np.clip(self._base.ravel(), 0, 1)
        departs = self._departs(counts)
        return predict_use(
            departs,
            self._base,
            self._reliability,
            sketch(departs, self._buckets, self._signs, SKETCH),
            self._sketches,
            self._residuals,
            min(self._decodes, REMEMBERED),
        )

    def saw_prefill(self, counts: NDArray[np.integer]) -> None:
        """Take a prefill into the mean."""
        self._prefills += 1
        frequencies = self._frequencies(counts, self._mean)
        self._mean = self._moved(self._mean, frequencies, self._prefills + 1)
        self._rest()

    def saw_decode(self, prefill: NDArray[np.integer], decode: NDArray[np.integer]) -> None:
        """Learn from a request that finished: counts [layers, experts] of both its parts."""
        departs = self._departs(prefill)
        frequencies = self._frequencies(decode, self._base)
        self._decodes += 1
        self._drift = self._moved(self._drift, frequencies - self._mean, self._decodes)
        lasting = frequencies - self._mean - self._drift
        keep = 1 - 1 / _WINDOW
        self._squares = keep * self._squares + (departs * departs).sum(axis=1)
        self._products = keep * self._products + (departs * lasting).sum(axis=1)
        self._rest()
        place = (self._decodes - 1) % REMEMBERED
        expected = self._base + self._reliability[:, None] * departs
        self._residuals[place] = (frequencies - expected).ravel()
        self._sketches[place] = sketch(departs, self._buckets, self._signs, SKETCH)

    def _departs(self, counts: NDArray[np.integer]) -> NDArray[np.float32]:
        return departure(counts.astype(np.float32), self.top_k, self._mean, TOKENS_OF_MEAN)

    def _frequencies(
        self, counts: NDArray[np.integer], unknown: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Uses a token; of a layer without any, as `unknown` says."""
        picks = counts.sum(axis=1, keepdims=True, dtype=np.float64)
        shares = counts * (self.top_k / np.maximum(picks, 1))
        return np.where(picks > 0, shares, unknown).astype(np.float32)

    @staticmethod
    def _moved(
        mean: NDArray[np.float32], value: NDArray[np.float32], number: int
    ) -> NDArray[np.float32]:
        return mean + (value - mean) * np.float32(1 / min(number, _WINDOW))

    def _rest(self) -> None:
        """What follows from the sums, for predictions to use."""
        n = min(self._decodes, _WINDOW)
        known = n / (n + PRIOR_REQUESTS)
        self._base = self._mean + np.float32(known) * self._drift
        slope = np.divide(
            self._products, self._squares, out=np.ones_like(self._squares), where=self._squares > 0
        )
        self._reliability = (1 + known * (slope - 1)).astype(np.float32)
