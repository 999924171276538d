"""Refits and reshapes of separable traffic, without the process around them."""

import numpy as np
import pytest
from routed import separable

from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform
from eldr_service.fitting.refit import Bound, refit
from eldr_service.fitting.reshape import reshaped

KINDS = 6
RECORDING = separable(KINDS, 24)
COUNTS = RECORDING.prefill_counts()
KIND = RECORDING.domains.astype(int)


def of(*kinds):
    """All requests of these kinds, in turn."""
    return COUNTS[np.isin(KIND, kinds)]


def fitted(counts, slots, current=None):
    return refit(counts, "m", RECORDING.geometry, slots, current, "traffic")


def slots_of(partition, *kinds):
    """The slot that most requests of each kind are nearest to."""
    nearest = (partition.transform.apply(COUNTS) @ partition.centroids.T).argmax(axis=1)
    return [int(np.bincount(nearest[kind == KIND]).argmax()) for kind in kinds]


def test_the_first_has_nothing_to_be_compared_with():
    made = fitted(of(0, 1, 2), 3)
    assert made.better
    metadata = made.partition.metadata
    assert metadata["refit_reason"] == "traffic"
    assert float(metadata["refit_experts"]) > 0
    assert 0 < float(metadata["refit_distance"]) < 1
    assert metadata["signatures"] == "54"  # the others are held out


def after(*new):
    """A refit of a partition of kinds 0 to 3 after its traffic has changed; and that partition."""
    old = fitted(of(0, 1, 2, 3), 4).partition
    window = np.concatenate([of(0, 1, 2, 3)[-36:], of(*new)])
    return old, fitted(window, 4, Bound(old, (0, 1, 2, 3)))


def test_new_traffic_gets_a_new_partition_and_old_slots_keep_their_number():
    old, made = after(0, 1, 4, 5)
    assert made.better
    assert made.carried == (0, 1, 2, 3)
    metadata = made.partition.metadata
    assert float(metadata["refit_experts"]) < 0.99 * float(metadata["refit_experts_before"])
    assert slots_of(made.partition, 0, 1) == slots_of(old, 0, 1)
    assert len(set(slots_of(made.partition, 0, 1, 4, 5))) == 4
    assert float(metadata["refit_moved"]) < 0.4


def test_one_as_good_is_not_better():
    old = fitted(of(0, 1, 2), 3).partition
    made = fitted(of(0, 1, 2)[::-1], 3, Bound(old, (0, 1, 2)))
    assert not made.better
    assert made.partition.metadata["refit_moved"] == "0.0000"


def test_a_slot_for_each_worker_beats_shared_ones():
    old = fitted(of(0, 1, 2, 3), 2).partition
    made = fitted(of(0, 1, 2, 3), 4, Bound(old, (0, 1, 0, 1)))
    assert made.better
    assert sorted(made.carried) == [0, 1]
    assert made.partition.num_slots == 4


def pairs():
    """A partition with a slot for kinds 0 and 1 and one for 2 and 3."""
    transform = SignatureTransform(RECORDING.geometry, "sqrt")
    means = [transform.apply(of(*kinds)).mean(axis=0) for kinds in ((0, 1), (2, 3))]
    return Partition("m", transform, np.stack([mean / np.linalg.norm(mean) for mean in means]))


@pytest.mark.parametrize("shared", [0, 1])
def test_the_slot_that_a_joiner_shares_is_split(shared):
    old = pairs()
    made = reshaped(of(0, 1, 2, 3), Bound(old, (0, 1, shared)))
    assert made.partition.num_slots == 3
    assert sorted(made.slots) == [0, 1, 2]
    kinds = 2 * shared, 2 * shared + 1
    assert sorted(slots_of(made.partition, *kinds)) == sorted([made.slots[shared], made.slots[2]])
    alone = 1 - shared
    assert (made.partition.centroids[made.slots[alone]] == old.centroids[alone]).all()


def test_a_vacant_slot_is_merged_into_its_nearest():
    four = fitted(of(0, 1, 2, 3), 4).partition
    made = reshaped(of(0, 1, 2, 3), Bound(four, (0, 1, 3)))
    assert made.slots == (0, 1, 2)
    into = int(np.argmax((four.centroids @ four.centroids[2])[[0, 1, 3]]))
    before = float(four.centroids[[0, 1, 3][into]] @ four.centroids[2])
    assert float(made.partition.centroids[into] @ four.centroids[2]) > before
    np.testing.assert_allclose(np.linalg.norm(made.partition.centroids, axis=1), 1.0, rtol=1e-5)


def test_too_few_requests_leave_a_slot_shared():
    two = fitted(of(0, 1), 2).partition
    made = reshaped(of(0)[:1], Bound(two, (0, 1, 1, 0)))
    assert made.partition.num_slots == 2
    assert made.slots == (0, 1, 1, 0)
