"""`locality` and `locality-band` against the contract, said plainly in `band_reference`."""

import time
from pathlib import Path

import numpy as np
import pytest
from band_reference import locality_band
from fleet_snapshot import request, snapshot

from eldr_service.core.decision import Reason
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import spread_of
from eldr_service.core.signature import SignatureTransform
from eldr_service.policies.locality import Locality
from eldr_service.policies.locality_band import LocalityBand, LocalityBandParameters

RECORDING = Path(__file__).parents[3] / "shared/data/activations/gpt-oss-20b-topics.npz"


def band(tau, min_band=2):
    return LocalityBand(LocalityBandParameters(tau=tau, min_band=min_band))


def agree(policy, tau, fleet, signature, min_band=2):
    decision = policy.pick(request(signature=signature), fleet)
    given = (fleet.centroids, signature, fleet.slots, fleet.eligible, fleet.load, tau, min_band)
    worker, similarity, in_band = locality_band(*given)
    assert decision.worker == worker
    needed = ~np.isnan(decision.similarity)
    np.testing.assert_array_equal(decision.similarity[needed], similarity[needed])
    assert needed[worker] == (fleet.slots[worker] >= 0)
    np.testing.assert_array_equal(decision.in_band, in_band)


def random_fleet(rng, centroids):
    """Workers with few distinct loads, unequal capacities, some full and some without a slot."""
    n = rng.integers(1, 12)
    capacity = rng.choice([4, 8, 16], n)
    eligible = rng.random(n) < 0.8
    eligible[rng.integers(n)] = True
    return snapshot(
        rng.integers(0, 5, n) * capacity // 4,
        capacity,
        eligible,
        rng.integers(-1, len(centroids), n),
        centroids,
    )


def random_units(rng, shape, coarse):
    """Unit vectors; coarse ones are few, so that equal similarities abound."""
    raw = rng.integers(0, 3, shape) if coarse else rng.random(shape)
    raw = raw + (raw.sum(axis=-1, keepdims=True) == 0)
    return (raw / np.linalg.norm(raw, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("coarse", [False, True], ids=["spread", "tied"])
def test_band_is_the_contracts_on_10_000_random_snapshots(coarse):
    rng = np.random.default_rng(11 + coarse)
    policies = [(tau, least) for tau in (0.0, 0.02, 0.1, 0.3, 2.0) for least in (1, 2, 3)]
    for _ in range(5_000):
        centroids = random_units(rng, (rng.integers(1, 6), 4), coarse)
        fleet, signature = random_fleet(rng, centroids), random_units(rng, 4, coarse)
        tau, least = policies[rng.integers(len(policies))]
        agree(band(tau, least), tau, fleet, signature, least)
        agree(Locality(), 0.0, fleet, signature)


def prefill_counts(limit):
    """Counts of the prefills of real requests, else of synthetic ones with skewed experts."""
    if not RECORDING.exists():
        rng = np.random.default_rng(5)
        likely = rng.dirichlet(np.full(32, 0.3), size=(4, 24))  # of four kinds of request
        return np.stack([rng.multinomial(400, likely[i % 4]) for i in range(limit)])
    with np.load(RECORDING) as data:
        experts, offsets, prefill = data["expert_ids"], data["offsets"], data["prefill_len"]
        num_experts = int(data["num_experts"])
    layers = experts.shape[1]
    counts = []
    for start, length in zip(offsets[:limit], prefill[:limit], strict=True):
        flat = experts[start : start + length] + num_experts * np.arange(layers)[:, None]
        counts.append(np.bincount(flat.ravel(), minlength=layers * num_experts))
    return np.stack(counts).reshape(-1, layers, num_experts)


def test_band_is_the_contracts_on_200_real_signatures():
    counts = prefill_counts(200)
    geometry = ModelGeometry(counts.shape[1], counts.shape[2], top_k=4)
    signatures = SignatureTransform(geometry, "sqrt").apply(counts)
    rng = np.random.default_rng(3)
    for signature in signatures:
        centroids = signatures[rng.choice(len(signatures), 4, replace=False)].copy()
        fleet = random_fleet(rng, centroids)
        for tau in (0.0, 0.02, 0.1):
            agree(band(tau), tau, fleet, signature)


CENTROIDS = np.array([[1, 0], [0.96, 0.28], [0.6, 0.8]], dtype=np.float32)
SIGNATURE = CENTROIDS[0].copy()  # similarity 1, 0.96, 0.6


def test_band_takes_the_least_loaded_of_the_near_ones():
    decision = LocalityBand().pick(
        request(signature=SIGNATURE), snapshot([5, 2, 0], slots=[0, 1, 2], centroids=CENTROIDS)
    )
    assert (decision.worker, decision.reason) == (1, Reason.LOCALITY_BAND)
    assert decision.in_band.tolist() == [True, True, False]
    assert decision.similarity[1] == 0.96


SPREAD = 1 - (0.96 + 0.6 + 0.96 * 0.6 + 0.28 * 0.8) / 3  # of CENTROIDS: cosines of three pairs


def test_the_spread_is_1_less_the_mean_cosine_of_two_centroids():
    assert spread_of(CENTROIDS) == pytest.approx(SPREAD, abs=1e-6)
    assert spread_of(np.eye(5, dtype=np.float32)) == 1
    assert spread_of(CENTROIDS[:1]) == 0
    assert 0 <= spread_of(np.repeat(CENTROIDS[2:], 9, axis=0)) < 1e-6
    rng = np.random.default_rng(2)
    units = random_units(rng, (7, 40), coarse=False)
    pairs = [units[i] @ units[j] for i in range(7) for j in range(i)]
    assert spread_of(units) == pytest.approx(1 - np.mean(pairs), abs=1e-6)


@pytest.mark.parametrize(
    ("width", "in_band"),
    [
        (0.0, [True, False, False]),
        (0.03 / SPREAD, [True, False, False]),
        (0.05 / SPREAD, [True, True, False]),
        (0.39 / SPREAD, [True, True, False]),
        (0.41 / SPREAD, [True, True, True]),
    ],
)
def test_a_width_is_a_share_of_the_partitions_spread(width, in_band):
    policy = LocalityBand(LocalityBandParameters(width=width, min_band=1))
    fleet = snapshot([5, 2, 0], slots=[0, 1, 2], centroids=CENTROIDS)
    decision = policy.pick(request(signature=SIGNATURE), fleet)
    assert decision.in_band.tolist() == in_band
    in_cosines = band(width * SPREAD, min_band=1)
    assert in_cosines.pick(request(signature=SIGNATURE), fleet).worker == decision.worker
    for said in (policy, in_cosines):
        why = said.explain(request(), fleet, said.pick(request(signature=SIGNATURE), fleet))
        assert f"tau {width * SPREAD:.3g} of the best" in why
        assert f"(tau is {width:.3g} of the partition's spread)" in why


def test_locality_takes_the_most_similar_however_loaded():
    fleet = snapshot([7, 0, 0], slots=[0, 1, 2], centroids=CENTROIDS)
    decision = Locality().pick(request(signature=SIGNATURE), fleet)
    assert (decision.worker, decision.reason) == (0, Reason.POLICY)


def test_locality_of_workers_that_share_the_best_slot_takes_the_least_loaded():
    fleet = snapshot([3, 2, 2, 0], slots=[0, 0, 0, 1], centroids=CENTROIDS)
    assert Locality().pick(request(signature=SIGNATURE), fleet).worker == 1


def test_load_is_relative_to_capacity():
    fleet = snapshot([4, 5], capacity=[8, 32], slots=[0, 1], centroids=CENTROIDS)
    assert LocalityBand().pick(request(signature=SIGNATURE), fleet).worker == 1


@pytest.mark.parametrize("policy", [Locality, LocalityBand])
def test_pick_repeats_and_asks_for_a_signature(policy):
    fleet = snapshot([5, 2, 0], slots=[0, 1, 2], centroids=CENTROIDS)
    policy = policy()
    assert policy.needs_signature
    assert len({policy.pick(request(n, signature=SIGNATURE), fleet).worker for n in range(5)}) == 1


def test_a_decision_among_64_workers_takes_well_under_a_millisecond():
    rng = np.random.default_rng(0)
    centroids = random_units(rng, (64, 48 * 128), coarse=False)
    fleet = snapshot([1] * 64, slots=np.arange(64), centroids=centroids)
    policy, asked = LocalityBand(), request(signature=centroids[0].copy())
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        policy.pick(asked, fleet)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3
