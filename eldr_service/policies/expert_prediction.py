"""Predicts which experts a decode will use, from its prefill and from finished decodes.

    p = mean of prefills + drift + reliability[layer] x departure + residuals of similar requests

`departure` is the prefill's difference from the mean of prefills, which is weighted like 16 tokens.
The other terms are learned from the `decode_counts` of releases: `drift` is how decodes differ from
prefills on average, `reliability` how much of a departure persists (per layer, by least squares),
and the residuals are what the 8 most similar of the last 128 finished requests did beyond that (see
`kernels.policies.expert_prediction`). A prior of 4 requests pulls drift to 0 and reliability to 1,
so that without decode counts the prediction is the shrunken prefill.
"""

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels import follow_counts, learn_decode, predict_use
from eldr_service.policies.state import PolicyState

TOKENS_OF_MEAN = 16.0
PRIOR_REQUESTS = 4.0
REMEMBERED = 128
SKETCH = 256
_MOST_BYTES = 64 << 20  # of residuals, for any geometry
_WINDOW = 1_000  # requests over which means decay
_LEARNED = ("mean", "drift", "sums", "reliability", "sketches", "residuals", "scales")


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
        remembered = max(1, min(REMEMBERED, _MOST_BYTES // size))
        self._sketches = np.zeros((remembered, SKETCH), np.float32)
        self._residuals = np.zeros((remembered, size), np.int8)
        self._scales = np.zeros(remembered)
        rng = np.random.default_rng(0)
        signs = np.array([-1, 1], np.float32)
        self._hash = rng.integers(0, SKETCH, size), rng.choice(signs, size)

    def predict(self, counts: NDArray[np.integer] | None) -> NDArray[np.float32]:
        """Probability that a token of the decode uses each expert, shape [layers * experts].

        Without counts, the prediction is for the mean request.
        """
        if counts is None:
            return np.clip(self._mean + self._known * self._drift, 0, 1).ravel()
        return predict_use(
            counts.astype(np.float32),
            self.top_k,
            TOKENS_OF_MEAN,
            self._mean,
            self._drift,
            self._known,
            self._reliability,
            *self._hash,
            self._sketches,
            self._residuals,
            self._scales,
            min(self._decodes, len(self._residuals)),
        )

    def saw_prefill(self, counts: NDArray[np.integer]) -> None:
        """Add a prefill to the mean, which starts as uniform use, weighted as one prefill."""
        self._prefills += 1
        rate = 1 / min(self._prefills + 1, _WINDOW)
        follow_counts(self._mean, counts.astype(np.float32), self.top_k, rate)

    def saw_decode(self, prefill: NDArray[np.integer], decode: NDArray[np.integer]) -> None:
        """Learn from a finished request's prefill and decode counts [layers, experts]."""
        place = self._decodes % len(self._residuals)
        self._decodes += 1
        self._scales[place] = learn_decode(
            prefill.astype(np.float32),
            self.top_k,
            TOKENS_OF_MEAN,
            decode.astype(np.float32),
            self._mean,
            self._drift,
            1 / min(self._decodes, _WINDOW),
            1 - 1 / _WINDOW,
            self._known,
            self._sums,
            self._reliability,
            *self._hash,
            self._sketches[place],
            self._residuals[place],
        )

    def state(self) -> PolicyState:
        """What was learned, for `restore`."""
        seen = np.array([self._prefills, self._decodes])
        return {"seen": seen, **{name: getattr(self, f"_{name}").copy() for name in _LEARNED}}

    def restore(self, state: PolicyState) -> None:
        """Restore what `state` returned."""
        self._prefills, self._decodes = state["seen"].tolist()
        for name in _LEARNED:
            if state[name].shape != getattr(self, f"_{name}").shape:  # of another version
                raise ValueError(f"{name} has the shape {state[name].shape}")
            setattr(self, f"_{name}", state[name].copy())

    @property
    def _known(self) -> float:
        """Weight of what was learned against the prior, 0 to 1."""
        n = min(self._decodes, _WINDOW)
        return n / (n + PRIOR_REQUESTS)
