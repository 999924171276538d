import numpy as np
import pytest
from routed import separable

from eldr_service.fitting import BalancedKMeans, starts
from eldr_service.fitting.lloyd import cluster, seed_centers
from eldr_service.fitting.signatures import DenseSignatures


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def small_sample(monkeypatch):
    monkeypatch.setattr(starts, "_SAMPLE", 64)
    monkeypatch.setattr(starts, "_SAMPLE_OF_CLUSTER", 8)


def clumps(n, clusters, rng):
    middles = rng.random((clusters, 40)) ** 6
    return DenseSignatures(unit(middles[np.arange(n) % clusters] + 0.05 * rng.random((n, 40))))


@pytest.mark.usefixtures("small_sample")
def test_a_sample_ends_where_all_would():
    signatures = clumps(600, 6, np.random.default_rng(0))
    exact = cluster(signatures, signatures.values[:6], 50)  # one of each clump
    sampled = starts.cluster_from_seeds(signatures, 6, 50, 4, np.random.default_rng(0))
    assert sampled.inertia == pytest.approx(exact.inertia, rel=1e-6)
    assert len(set(zip(sampled.labels, exact.labels, strict=True))) == 6


@pytest.mark.usefixtures("small_sample")
def test_starts_compete_on_the_sample_and_one_goes_on():
    told = []
    signatures = clumps(600, 6, np.random.default_rng(0))
    result = starts.cluster_from_seeds(
        signatures, 6, 20, 3, np.random.default_rng(0), lambda *at: told.append(at)
    )
    assert {most for _, most, _ in told} == {80}
    assert [at for at, _, _ in told] == sorted({at for at, _, _ in told})
    last = [at for at, _, _ in told if at > 60]
    assert len(last) == result.n_iter
    assert told[-1][2] == result.inertia
    assert len(result.labels) == 600
    assert np.bincount(result.labels).tolist() == [100] * 6


@pytest.mark.usefixtures("small_sample")
def test_a_sample_of_zeros_is_not_used():
    values = np.zeros((3_000, 4), np.float32)
    values[:2] = np.eye(4)[:2]
    result = starts.cluster_from_seeds(DenseSignatures(values), 2, 9, 1, np.random.default_rng(0))
    np.testing.assert_allclose(np.sort(result.centers, axis=0)[-1], [1, 1, 0, 0])


def test_of_several_starts_the_best_is_kept():
    signatures = DenseSignatures(unit(np.random.default_rng(1).random((90, 12)) ** 4))
    rng = np.random.default_rng(5)
    alone = [cluster(signatures, seed_centers(signatures, 7, rng), 50) for _ in range(6)]
    best = starts.cluster_from_seeds(signatures, 7, 50, 6, np.random.default_rng(5))
    assert best.inertia == min(result.inertia for result in alone)
    assert best.inertia < max(result.inertia for result in alone)


def test_kept_up_to_date_as_if_made_anew():
    counts = separable(6, 30, tokens=8).prefill_counts()
    kmeans = BalancedKMeans(9, transform="counts", max_iter=50).fit(counts)
    assert kmeans.n_iter_ > 3
    signatures = kmeans.transform_.apply(counts).astype(np.float64)
    means = np.stack([signatures[kmeans.labels_ == k].sum(axis=0) for k in range(9)])
    np.testing.assert_allclose(kmeans.cluster_centers_, unit(means), rtol=0, atol=1e-6)
    own = (signatures * kmeans.cluster_centers_[kmeans.labels_]).sum(axis=1)
    assert kmeans.inertia_ == pytest.approx((1 - own).sum(), rel=1e-6)
