import numpy as np
import pytest
from routed import separable

from eldr_service.fitting import BalancedKMeans, transform_choice
from eldr_service.fitting.layer_choice import most_telling_half

RECORDING = separable(4, 12, layers=4)
PREFILL, DECODE = RECORDING.prefill_counts(), RECORDING.decode_counts()
HALF = ", half of the layers"


def telling_half():
    """Counts of which layers 0 and 3 tell kinds apart, and the others are chance and loud."""
    rng = np.random.default_rng(0)
    prefill, decode = PREFILL.copy(), DECODE.copy()
    for counts in (prefill, decode):
        loud = rng.dirichlet(np.full(16, 0.1), (len(counts), 2))
        counts[:, 1:3] = rng.poisson(2_000 * loud)
    return prefill, decode


def test_with_decode_counts_layer_masks_are_tried():
    scores = BalancedKMeans(4).fit(PREFILL, decode_counts=DECODE).transform_scores_
    plain = {"counts", "counts-idf", "sqrt"}
    assert set(scores) == plain | {name + HALF for name in plain}
    assert set(BalancedKMeans(4).fit(PREFILL).transform_scores_) == plain
    masked = BalancedKMeans(4, layer_mask=[0, 1]).fit(PREFILL, decode_counts=DECODE)
    assert set(masked.transform_scores_) == plain
    assert masked.transform_.layers.tolist() == [0, 1]


def test_the_layers_that_foretell_the_decode_are_kept():
    prefill, decode = telling_half()
    kmeans = BalancedKMeans(4, n_init=4).fit(prefill, decode_counts=decode)
    assert kmeans.transform_.layers.tolist() == [0, 3]
    best = min(kmeans.transform_scores_, key=kmeans.transform_scores_.get)
    assert best.endswith(HALF)
    groups = set(zip(kmeans.labels_, np.arange(48) % 4, strict=True))
    assert len(groups) == 4


def test_a_layer_in_which_all_are_alike_tells_nothing():
    shares = np.full((6, 2, 4), 0.25, np.float32)
    shares[:, 1] = np.eye(4)[np.arange(6) % 4]
    assert most_telling_half(shares, shares).tolist() == [1]


def test_decode_counts_are_what_held_out_requests_touch():
    plain = BalancedKMeans(4).fit(PREFILL).transform_scores_
    alone = np.zeros_like(DECODE)
    alone[:, :, 0] = 9  # all decodes use one expert
    same = BalancedKMeans(4).fit(PREFILL, decode_counts=alone).transform_scores_
    assert set(same.values()) == {1.0}
    copied = BalancedKMeans(4).fit(PREFILL, decode_counts=PREFILL).transform_scores_
    assert {name: copied[name] for name in plain} == plain


def test_at_most_so_many_requests_are_judged(monkeypatch):
    monkeypatch.setattr(transform_choice, "_JUDGED", 24)
    monkeypatch.setattr(transform_choice, "_JUDGED_OF_CLUSTER", 4)
    few = BalancedKMeans(4).fit(PREFILL).transform_scores_
    order = np.random.default_rng(0).permutation(len(PREFILL))[:24]
    rest = PREFILL.copy()
    rest[np.setdiff1d(np.arange(len(PREFILL)), order)] = 1
    assert BalancedKMeans(4).fit(rest).transform_scores_ == few


def test_the_choice_tells_how_far_it_is():
    told = []
    BalancedKMeans(4).fit(
        PREFILL, decode_counts=DECODE, choice_progress=lambda *at: told.append(at)
    )
    assert told == [(done, 12) for done in range(1, 13)]


@pytest.mark.parametrize(
    ("decodes", "message"),
    [
        (DECODE[:, :2], "decode_counts of shape .* are not of 4 layers"),
        (DECODE[1:], "decode_counts must be of the same 48 requests, got 47"),
        (DECODE / 2, "decode_counts must be integers"),
    ],
)
def test_wrong_decode_counts(decodes, message):
    with pytest.raises(ValueError, match=message):
        BalancedKMeans(4).fit(PREFILL, decode_counts=decodes)
