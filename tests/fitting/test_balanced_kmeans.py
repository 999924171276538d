import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routed import recorded, separable

from eldr_service.core.geometry import ModelGeometry
from eldr_service.fitting import BalancedKMeans, fit_partition

TRANSFORMS = ["counts", "counts-idf", "sqrt"]
FOUR_KINDS = separable(4, 10).prefill_counts()


def same_groups(labels, others):
    return len(set(zip(labels, others, strict=True))) == len(set(labels)) == len(set(others))


@pytest.mark.parametrize("transform", ["auto", *TRANSFORMS])
def test_recovers_kinds(transform):
    kmeans = BalancedKMeans(4, transform=transform, n_init=4).fit(FOUR_KINDS)
    assert same_groups(kmeans.labels_, np.tile(np.arange(4), 10))
    np.testing.assert_array_equal(kmeans.predict(FOUR_KINDS), kmeans.labels_)


def test_fitted_attributes():
    kmeans = BalancedKMeans(4, transform="sqrt", layer_mask=[0, 2]).fit(FOUR_KINDS)
    assert kmeans.cluster_centers_.dtype == np.float32
    assert kmeans.cluster_centers_.shape == (4, 2 * 16)
    np.testing.assert_allclose(np.linalg.norm(kmeans.cluster_centers_, axis=1), 1, rtol=1e-6)
    assert kmeans.labels_.dtype == np.int32
    signatures = kmeans.transform_.apply(FOUR_KINDS)
    own = (signatures * kmeans.cluster_centers_[kmeans.labels_]).sum(axis=1)
    assert kmeans.inertia_ == pytest.approx((1 - own).sum(), rel=1e-4)
    assert 1 <= kmeans.n_iter_ <= 50
    assert kmeans.transform_scores_ == {}


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32 - 1), st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_no_cluster_is_above_its_share(n, n_clusters, seed, largest):
    # With counts of at most 2 there are repeats and requests that are all zero.
    counts = np.random.default_rng(seed).integers(0, largest + 1, (n, 2, 3))
    counts[0, 0, 0] = 1
    kmeans = BalancedKMeans(n_clusters, transform="counts", random_state=seed)
    if n < n_clusters:
        with pytest.raises(ValueError, match="as many requests"):
            kmeans.fit(counts)
        return
    kmeans.fit(counts)
    sizes = np.bincount(kmeans.labels_, minlength=n_clusters)
    assert sizes.max() <= -(-n // n_clusters)
    np.testing.assert_allclose(np.linalg.norm(kmeans.cluster_centers_, axis=1), 1, rtol=1e-5)


def test_a_popular_kind_is_split():
    counts = FOUR_KINDS[[0, 4, 8, 12, 16, 20, 1, 2]]  # six of one kind, one of two others
    kmeans = BalancedKMeans(2, transform="sqrt", n_init=4).fit(counts)
    assert np.bincount(kmeans.labels_).tolist() == [4, 4]
    assert len(set(kmeans.labels_[-2:])) == 1


@pytest.mark.parametrize("transform", ["auto", "sqrt"])
def test_same_random_state_same_fit(transform):
    counts = recorded("deepseek-v2-lite-tasks").prefill_counts()
    first, again, other = (
        BalancedKMeans(8, transform=transform, random_state=seed).fit(counts) for seed in (3, 3, 4)
    )
    assert first.cluster_centers_.tobytes() == again.cluster_centers_.tobytes()
    assert first.cluster_centers_.tobytes() != other.cluster_centers_.tobytes()


def test_more_starts_are_never_worse():
    counts = recorded("gpt-oss-20b-topics").prefill_counts()[:164]
    one, five = (BalancedKMeans(16, transform="sqrt", n_init=n).fit(counts) for n in (1, 5))
    assert five.inertia_ <= one.inertia_


def test_initial_centers_keep_their_numbers():
    fitted = BalancedKMeans(4, transform="sqrt", n_init=4).fit(FOUR_KINDS)
    order = [2, 0, 3, 1]
    refit = BalancedKMeans(4, transform="sqrt").fit(
        FOUR_KINDS, initial_centers=5 * fitted.cluster_centers_[order]
    )
    np.testing.assert_allclose(
        refit.cluster_centers_, fitted.cluster_centers_[order], rtol=0, atol=1e-6
    )
    assert refit.n_iter_ == 1


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        (np.ones((3, 48)), "shape"),
        (np.zeros((4, 48)), "all zero"),
        (np.full((4, 48), np.nan), "finite"),
    ],
)
def test_initial_centers_that_do_not_fit(centers, message):
    with pytest.raises(ValueError, match=message):
        BalancedKMeans(4, transform="sqrt").fit(FOUR_KINDS, initial_centers=centers)


def test_layer_mask_by_booleans_or_numbers():
    by_number = BalancedKMeans(4, layer_mask=[1]).fit(FOUR_KINDS)
    by_boolean = BalancedKMeans(4, layer_mask=[False, True, False]).fit(FOUR_KINDS)
    assert by_number.transform_.layers.tolist() == [1]
    np.testing.assert_array_equal(by_number.cluster_centers_, by_boolean.cluster_centers_)


def test_warns_when_idf_says_little():
    counts = FOUR_KINDS + 1
    counts[:8, :, 0] = 0
    with pytest.warns(UserWarning, match="idf is zero for 94% of the entries"):
        BalancedKMeans(2, transform="counts-idf").fit(counts)


@pytest.mark.filterwarnings("ignore:idf is zero")
def test_idf_that_is_zero_throughout_leaves_no_signature():
    with pytest.raises(ValueError, match="no request has a signature"):
        BalancedKMeans(2, transform="counts-idf").fit(FOUR_KINDS + 1)


def test_auto_neither_warns_nor_takes_an_idf_that_is_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kmeans = BalancedKMeans(4).fit(FOUR_KINDS + 1)
    assert kmeans.transform_.name != "counts-idf"
    assert kmeans.transform_scores_["counts-idf"] == np.inf


def test_held_out_scores_are_lower_where_requests_share_experts():
    counts = recorded("gpt-oss-20b-topics").prefill_counts()
    strangers = np.random.default_rng(0).permuted(counts, axis=2)
    shared, apart = (BalancedKMeans(8).fit(c).transform_scores_ for c in (counts, strangers))
    assert set(shared) == set(TRANSFORMS)
    assert all(0 < shared[name] < apart[name] < counts.shape[2] for name in TRANSFORMS)


def test_auto_without_enough_requests_to_hold_some_back():
    assert BalancedKMeans(4).fit(FOUR_KINDS[:7]).transform_.name == "sqrt"


def test_progress_over_all_starts():
    seen = []
    kmeans = BalancedKMeans(4, transform="sqrt", n_init=2, max_iter=20)
    kmeans.fit(FOUR_KINDS, progress=lambda *told: seen.append(told))
    assert [at for at, _, _ in seen] == sorted(at for at, _, _ in seen)
    assert {most for _, most, _ in seen} == {40}
    assert min(inertia for _, _, inertia in seen) == kmeans.inertia_


def test_predict_is_minus_one_without_a_signature():
    kmeans = BalancedKMeans(4).fit(FOUR_KINDS)
    assert kmeans.predict(np.zeros((1, 3, 16), dtype=np.uint32)).tolist() == [-1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 0}, "n_clusters"),
        ({"n_clusters": 2.0}, "n_clusters"),
        ({"n_clusters": 41}, "41 clusters need as many requests, got 40"),
        ({"n_clusters": 2, "max_iter": 0}, "max_iter"),
        ({"n_clusters": 2, "n_init": 0}, "n_init"),
        ({"n_clusters": 2, "transform": "tf-idf"}, "transform must be one of"),
        ({"n_clusters": 2, "layer_mask": [2, 1]}, "layer_mask"),
        ({"n_clusters": 2, "layer_mask": [3]}, "layer_mask"),
        ({"n_clusters": 2, "layer_mask": []}, "layer_mask"),
        ({"n_clusters": 2, "layer_mask": [False] * 3}, "layer_mask"),
        ({"n_clusters": 2, "layer_mask": [True] * 2}, "layer_mask"),
    ],
)
def test_parameters_are_checked_when_fitted(parameters, message):
    kmeans = BalancedKMeans(**parameters)
    with pytest.raises(ValueError, match=message):
        kmeans.fit(FOUR_KINDS)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (FOUR_KINDS[0], "shape"),
        (FOUR_KINDS.astype(float), "integers"),
        (-FOUR_KINDS.astype(np.int64), "negative"),
        (0 * FOUR_KINDS, "no request has a signature"),
    ],
)
def test_counts_are_checked(counts, message):
    with pytest.raises(ValueError, match=message):
        BalancedKMeans(2).fit(counts)


def test_predict_wants_counts_of_the_same_geometry():
    kmeans = BalancedKMeans(4).fit(FOUR_KINDS)
    with pytest.raises(ValueError, match="are not of 3 layers x 16 experts"):
        kmeans.predict(FOUR_KINDS[:, :2])


def test_parameters_can_be_read_and_set():
    kmeans = BalancedKMeans(4, max_iter=7)
    assert kmeans.get_params()["max_iter"] == 7
    assert kmeans.set_params(n_clusters=3).n_clusters == 3
    with pytest.raises(ValueError, match="no parameter 'k'"):
        kmeans.set_params(k=3)


def test_partition_says_how_it_was_fitted():
    geometry = ModelGeometry(3, 16, 2)
    partition = fit_partition("m", FOUR_KINDS, geometry, n_clusters=4, layers=[0, 1])
    assert partition.geometry == geometry
    assert partition.num_slots == 4
    assert partition.transform.layers.tolist() == [0, 1]
    assert partition.metadata["signatures"] == "40"
    assert partition.metadata["algorithm"] == "balanced-kmeans"
    assert {"inertia", "iterations", "seed", "held_out_experts[sqrt]"} <= set(partition.metadata)
    with pytest.raises(ValueError, match="are not of"):
        fit_partition("m", FOUR_KINDS, ModelGeometry(2, 16, 2), n_clusters=4)
