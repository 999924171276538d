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

from eldr_service.kernels import departure, follow_counts, learn_decode, predict_use, sketch
from eldr_service.policies.state import PolicyState

TOKENS_OF_MEAN = 16.0
PRIOR_REQUESTS = 4.0
REMEMBERED = 128
SKETCH = 256
_MOST_BYTES = 64 << 20  # of residuals, whatever the geometry
_WINDOW = 1_000  # requests over which means forget
_LEARNED = ("mean", "drift", "sums", "reliability", "sketches", "residuals")


class ExpertPrediction:
    """Predictions for one geometry.

    Parameters
    ----------
    shape : (int, int)
        Layers and experts.
    top_k : int
    """

    def __init__(self, shape: tuple[int, int], top_k: int) -> None:
        self.shape = layers, experts = shape
        self.top_k = top_k
        size = layers * experts
        self._prefills = self._decodes = 0
        self._mean = np.full(shape, top_k / experts, np.float32)
        self._drift = np.zeros(shape, np.float32)
        self._sums = np.zeros((2, layers))
        self._reliability = np.ones(layers, np.float32)
        remembered = max(1, min(REMEMBERED, _MOST_BYTES // (4 * size)))
        self._sketches = np.zeros((remembered, SKETCH), np.float32)
        self._residuals = np.zeros((remembered, size), np.float32)
        rng = np.random.default_rng(0)
        self._buckets = rng.integers(0, SKETCH, size)
        self._signs = rng.choice(np.array([-1, 1], np.float32), size)

    def predict(self, counts: NDArray[np.integer] | None) -> NDArray[np.float32]:
        """Probability that a token of the decode uses each expert, shape [layers * experts].

        Of a request without counts, that of the mean request.
        """
        if counts is None:
            return np.clip(self._mean + self._known * self._drift, 0, 1).ravel()
        departs = self._departs(counts)
        return predict_use(
            departs,
            self._mean,
            self._drift,
            self._known,
            self._reliability,
            self._sketch(departs),
            self._sketches,
            self._residuals,
            min(self._decodes, len(self._residuals)),
        )

    def saw_prefill(self, counts: NDArray[np.integer]) -> None:
        """Take a prefill into the mean, beside which even use counts as one."""
        self._prefills += 1
        rate = 1 / min(self._prefills + 1, _WINDOW)
        follow_counts(self._mean, counts.astype(np.float32), self.top_k, rate)

    def saw_decode(self, prefill: NDArray[np.integer], decode: NDArray[np.integer]) -> None:
        """Learn from a request that finished: counts [layers, experts] of both its parts."""
        departs, used = self._departs(prefill), decode.astype(np.float32)
        place = self._decodes % len(self._residuals)
        self._decodes += 1
        rate, keep = 1 / min(self._decodes, _WINDOW), 1 - 1 / _WINDOW
        learn_decode(departs, used, self.top_k, self._mean, self._drift, rate, keep, self._sums)
        squares, products = self._sums
        slope = np.divide(products, squares, out=np.ones_like(squares), where=squares > 0)
        self._reliability = (1 + self._known * (slope - 1)).astype(np.float32)
        expected = self._mean + self._known * self._drift + self._reliability[:, None] * departs
        came = expected.copy()  # and so it stays in layers of which nothing is known
        follow_counts(came, used, self.top_k, 1.0)
        self._residuals[place] = (came - expected).ravel()
        self._sketches[place] = self._sketch(departs)

    def state(self) -> PolicyState:
        """What was learned, for `restore`."""
        seen = np.array([self._prefills, self._decodes])
        return {"seen": seen, **{name: getattr(self, f"_{name}").copy() for name in _LEARNED}}

    def restore(self, state: PolicyState) -> None:
        """Take over what `state` gave."""
        self._prefills, self._decodes = state["seen"].tolist()
        for name in _LEARNED:
            setattr(self, f"_{name}", state[name].copy())

    @property
    def _known(self) -> float:
        """How much of what was learned to believe, 0 to 1."""
        n = min(self._decodes, _WINDOW)
        return n / (n + PRIOR_REQUESTS)

    def _departs(self, counts: NDArray[np.integer]) -> NDArray[np.float32]:
        return departure(counts.astype(np.float32), self.top_k, self._mean, TOKENS_OF_MEAN)

    def _sketch(self, departs: NDArray[np.float32]) -> NDArray[np.float32]:
        return sketch(departs, self._buckets, self._signs, SKETCH)
