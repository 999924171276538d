"""Predictions of a decode's experts, on requests whose decodes follow a known law."""

import numpy as np
import pytest

from eldr_service.policies.expert_prediction import REMEMBERED, ExpertPrediction

LAYERS, EXPERTS, TOP_K = 4, 24, 3


class World:
    """Kinds of request; a decode leans on its prefill in one layer, and on its kind in all."""

    def __init__(self, seed=0, kinds=4):
        self.rng = np.random.default_rng(seed)
        self.prefill = self._likely(kinds)
        self.decode = self._likely(kinds)
        self.decode[:, 0] = self.prefill[:, 0]

    def _likely(self, kinds):
        return self.rng.dirichlet(np.full(EXPERTS, 0.5), (kinds, LAYERS))

    def request(self, tokens=100):
        kind = self.rng.integers(len(self.prefill))
        sides = (self.prefill[kind], self.decode[kind])
        counts = [self.rng.multinomial(tokens * TOP_K, side).astype(np.uint32) for side in sides]
        return counts[0], counts[1], self.decode[kind] * TOP_K


def error(prediction, world, requests=60):
    total = 0.0
    for _ in range(requests):
        prefill, _, likely = world.request()
        total += ((prediction.predict(prefill) - np.minimum(likely, 1).ravel()) ** 2).sum()
    return total / requests


def test_without_decodes_it_is_the_prefill_shrunk_by_16_tokens_of_the_mean():
    prediction, world = ExpertPrediction((LAYERS, EXPERTS), TOP_K), World()
    prefills = [world.request()[0] for _ in range(30)]
    for prefill in prefills:
        prediction.saw_prefill(prefill)
    frequencies = np.stack([p / 100 for p in prefills])
    mean = (frequencies.sum(axis=0) + TOP_K / EXPERTS) / 31
    for counts in (prefills[0], prefills[0] // 50):  # the second of few tokens
        tokens = counts.sum(axis=1, keepdims=True) / TOP_K
        expected = (counts + 16 * mean) / (tokens + 16)
        found = prediction.predict(counts)
        np.testing.assert_allclose(found, np.minimum(expected, 1).ravel(), atol=1e-5)


def test_learns_from_decodes():
    prediction, world = ExpertPrediction((LAYERS, EXPERTS), TOP_K), World()
    errors = []
    for requests in (1, 10, 200):
        for _ in range(requests):
            prefill, decode, _ = world.request()
            prediction.saw_prefill(prefill)
            prediction.saw_decode(prefill, decode)
        errors.append(error(prediction, world))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.1 * errors[0]


def test_reliability_is_high_where_decodes_follow_their_prefills():
    prediction, world = ExpertPrediction((LAYERS, EXPERTS), TOP_K), World(kinds=200)
    for _ in range(400):
        prefill, decode, _ = world.request()
        prediction.saw_prefill(prefill)
        prediction.saw_decode(prefill, decode)
    assert prediction._reliability[0] == pytest.approx(1.0, abs=0.2)
    assert (np.abs(prediction._reliability[1:]) < 0.2).all()


def test_memory_is_bounded_and_the_oldest_goes_first():
    prediction, world = ExpertPrediction((LAYERS, EXPERTS), TOP_K), World()
    for _ in range(2 * REMEMBERED + 3):
        prediction.saw_decode(*world.request()[:2])
    assert len(prediction._residuals) == len(prediction._sketches) == REMEMBERED
    assert np.isfinite(prediction._residuals).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_layers_of_which_nothing_is_known_are_the_means(dtype):
    prediction, world = ExpertPrediction((LAYERS, EXPERTS), TOP_K), World()
    for _ in range(20):
        prefill, decode, _ = world.request()
        decode[2] = 0
        prediction.saw_prefill(prefill.astype(dtype))
        prediction.saw_decode(prefill.astype(dtype), decode.astype(dtype))
    prefill, *_ = world.request()
    prefill[1] = 0
    found = prediction.predict(prefill.astype(dtype)).reshape(LAYERS, EXPERTS)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(prediction._drift[2], 0)
