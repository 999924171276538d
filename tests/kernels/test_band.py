import numpy as np
import pytest
from band_reference import locality_band

from eldr_service import kernels
from eldr_service.core.quantised import QuantisedCentroids
from eldr_service.kernels.core.similarity import similarity


def choose_in_band(centroids, *others):
    *decided, about = kernels.choose_in_band(*QuantisedCentroids.of(centroids), *others)
    similar, eligible = decided[1], others[2]
    known = ~np.isnan(similar) & eligible
    lengths = np.linalg.norm(centroids) * np.linalg.norm(others[0])
    np.testing.assert_allclose(about[known], similar[known], rtol=0, atol=0.02 * lengths + 1e-6)
    assert not np.isnan(about[eligible & (others[1] >= 0)]).any()
    assert np.isnan(about[others[1] < 0]).all()
    return decided


def agree(*given):
    """Decide as the reference does; the similarities that were needed are exact."""
    worker, similar, in_band = choose_in_band(*given)
    expected_worker, expected_similar, expected_in_band = locality_band(*given)
    assert worker == expected_worker, given
    np.testing.assert_array_equal(in_band, expected_in_band)
    needed = ~np.isnan(similar)
    np.testing.assert_array_equal(similar[needed], expected_similar[needed])
    assert worker < 0 or needed[worker] == (given[2][worker] >= 0)
    return needed


def instance(rng, ties):
    """A random decision; with `ties`, numbers so coarse that equals and band edges abound."""
    workers, slots, size = rng.integers(1, 9), rng.integers(1, 6), rng.integers(1, 7)
    if ties:
        centroids = rng.integers(0, 4, (slots, size)) / 4
        signature = rng.integers(0, 3, size) / 4
        load = rng.integers(0, 3, workers) / 2
        tau = rng.choice([0.0, 0.0625, 0.125, 0.25])
    else:
        centroids = rng.random((slots, size))
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        signature = rng.random(size)
        signature /= np.linalg.norm(signature)
        load = rng.random(workers)
        tau = rng.choice([0.0, 0.02, 0.1, 1.0])
    return (
        centroids.astype(np.float32),
        signature.astype(np.float32),
        rng.integers(-1, slots, workers).astype(np.int32),
        rng.random(workers) < 0.8,
        load,
        float(tau),
        int(rng.integers(1, 5)),
    )


@pytest.mark.parametrize("ties", [False, True])
def test_decides_as_the_reference_on_10_000_random_instances(ties):
    rng = np.random.default_rng(7 + ties)
    for _ in range(10_000):
        agree(*instance(rng, ties))


def kinds(rng, workers, size):
    """Unit centroids and a signature as requests of a few kinds have them: mostly alike."""
    common, own = rng.gamma(0.5, size=size), rng.gamma(0.5, size=(4, size))
    rows = (
        common + own[rng.integers(4, size=workers + 1)] + rng.gamma(0.3, size=(workers + 1, size))
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[1:].astype(np.float32), rows[0].astype(np.float32)


@pytest.mark.parametrize("size", [96, 6_144, 9_000])
def test_the_quantised_look_never_changes_a_decision_not_even_at_the_edges(size):
    """Edges: tau is the very distance of some worker from the best, or a millionth off it."""
    rng = np.random.default_rng(size)
    spared = []
    for _ in range(40):
        centroids, signature = kinds(rng, 24, size)
        slots = rng.permutation(24).astype(np.int32)
        eligible, load = rng.random(24) < 0.9, rng.integers(0, 4, 24).astype(np.float64)
        if not eligible.any():
            continue
        exact = similarity(centroids, signature, slots)
        edge = exact[eligible].max() - rng.choice(exact[eligible])
        for tau in (0.0, 0.1, edge, edge - 1e-6, edge + 1e-6, 2.0):
            needed = agree(centroids, signature, slots, eligible, load, max(float(tau), 0.0), 2)
            spared.append(1 - needed[eligible].mean())
    assert np.mean(spared) > 0.4  # or the quantised copy would be of no use


def test_unequal_directions_and_lengths_are_bounded_too():
    rng = np.random.default_rng(5)
    for _ in range(500):
        centroids = (rng.normal(size=(6, 300)) * rng.choice([1e-3, 1, 50], (6, 1))).astype(
            np.float32
        )
        signature = (rng.normal(size=300) * rng.choice([1e-4, 1, 20])).astype(np.float32)
        slots, load = np.arange(6, dtype=np.int32), rng.random(6)
        agree(centroids, signature, slots, np.ones(6, np.bool_), load, 0.1, 2)


def choose(similarities, load, tau, slots=None, eligible=None, min_band=2):
    n = len(load)
    return choose_in_band(
        np.array(similarities, dtype=np.float32)[:, None],
        np.ones(1, dtype=np.float32),
        np.arange(n, dtype=np.int32) if slots is None else np.array(slots, dtype=np.int32),
        np.ones(n, dtype=np.bool_) if eligible is None else np.array(eligible),
        np.array(load, dtype=np.float64),
        tau,
        min_band,
    )


def test_least_loaded_of_the_band_wins():
    worker, _, in_band = choose([0.95, 0.9, 0.5], [0.8, 0.2, 0.0], 0.1)
    assert worker == 1
    assert in_band.tolist() == [True, True, False]


def test_second_best_joins_a_band_of_one():
    worker, _, in_band = choose([0.5, 0.9, 0.5, 0.3], [0.1, 0.8, 0.0, 0.0], 0.1)
    assert worker == 0  # of two equally similar seconds the first
    assert in_band.tolist() == [True, True, False, False]


def test_the_smallest_band_is_a_choice():
    given = [0.5, 0.9, 0.5, 0.3], [0.1, 0.8, 0.0, 0.0], 0.1
    assert choose(*given, min_band=1)[0] == 1  # alone in it, however loaded
    assert choose(*given, min_band=3)[2].tolist() == [True, True, True, False]
    worker, _, in_band = choose(*given, min_band=9)
    assert (worker, in_band.all()) == (2, True)


def test_two_workers_are_always_a_band_unless_it_may_be_one():
    """By the paper's rule load alone decides between two."""
    given = [0.1, 0.9], [0.0, 0.8], 0.1
    assert choose(*given)[0] == 0
    assert choose(*given, min_band=1)[0] == 1


def test_without_width_the_best_stands_alone():
    worker, _, in_band = choose([0.5, 0.9], [0.0, 0.8], 0.0)
    assert worker == 1
    assert in_band.tolist() == [False, True]


def test_worker_without_a_slot_competes_by_load_and_is_nobodys_second():
    worker, similar, in_band = choose([0.9, 0.2], [0.5, 0.4, 0.3], 0.1, slots=[0, 1, -1])
    assert worker == 2
    assert in_band.all()
    assert np.isnan(similar[2])


def test_ineligible_best_does_not_set_the_band():
    worker, _, in_band = choose([0.9, 0.5, 0.45], [0, 0.9, 0.2], 0.1, eligible=[False, True, True])
    assert worker == 2
    assert in_band.tolist() == [False, True, True]


def test_nobody_eligible():
    worker, _, in_band = choose([0.9], [0.0], 0.1, eligible=[False])
    assert worker == -1
    assert not in_band.any()


def test_similarity_sums_in_float64_and_rounds_as_numpy():
    rng = np.random.default_rng(0)
    centroids = rng.random((24, 6144), dtype=np.float32)
    signature = rng.random(6144, dtype=np.float32) / 3072
    slots = np.arange(24, dtype=np.int32)
    exact = np.array(
        [np.dot(row.astype(np.float64), signature.astype(np.float64)) for row in centroids]
    )
    np.testing.assert_array_equal(similarity(centroids, signature, slots), np.round(exact, 6))


def test_workers_that_share_a_slot_are_equally_similar():
    centroids = np.eye(2, dtype=np.float32)
    similar = similarity(centroids, centroids[1], np.array([1, 0, 1, -1], dtype=np.int32))
    np.testing.assert_array_equal(similar, [1, 0, 1, np.nan])


def test_arrays_may_be_read_only():
    arrays = instance(np.random.default_rng(1), ties=False)
    for array in arrays[:-2]:
        array.flags.writeable = False
    assert choose_in_band(*arrays)[0] == locality_band(*arrays)[0]


def test_misfits_are_refused_before_memory_is_touched():
    centroids, signature = np.eye(2, dtype=np.float32), np.ones(2, dtype=np.float32)
    slots = np.array([2], dtype=np.int32)
    with pytest.raises(ValueError, match="below the number of centroids"):
        similarity(centroids, signature, slots)
    with pytest.raises(ValueError, match="as long as a centroid"):
        similarity(centroids, signature[:1].copy(), slots)
    with pytest.raises(ValueError, match="one entry per worker"):
        choose_in_band(centroids, signature, slots, np.ones(2, np.bool_), np.zeros(1), 0.1, 2)
