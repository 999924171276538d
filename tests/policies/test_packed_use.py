"""What `marginal-cost` keeps of a booking: little, and counts only where it learns from them."""

from dataclasses import replace

import numpy as np
import pytest
from expert_bookings import EXPERTS, LAYERS, booked, counts
from fleet_snapshot import snapshot

from eldr_service.core.ends import Ended
from eldr_service.policies import experts
from eldr_service.policies.marginal_cost import MarginalCost
from eldr_service.policies.packed_use import PackedUse
from eldr_service.stores.bookings import kept_of, row_of


def test_a_booking_beyond_the_memory_for_learning_is_packed_and_teaches_nothing(monkeypatch):
    rng, policy, fleet = np.random.default_rng(0), MarginalCost(), snapshot([0, 0])
    prefills = [counts(rng) for _ in range(3)]
    monkeypatch.setattr(experts, "LEARNING_BYTES", 2 * prefills[0].nbytes)
    made = [booked(fleet, 0, f"r{i}", prefill) for i, prefill in enumerate(prefills)]
    for booking in made:
        policy.on_booked(booking)
    for booking, prefill in zip(made[:2], prefills, strict=False):
        np.testing.assert_array_equal(booking.counts, prefill)
    assert isinstance(made[2].kept, PackedUse)
    assert made[2].kept.data.nbytes == 48 + -(-LAYERS * EXPERTS // 8) * 3
    about = made[2].counts
    assert about.shape == prefills[2].shape
    assert about.sum() == pytest.approx(prefills[2].sum(), rel=0.05)
    assert np.corrcoef(about.ravel(), prefills[2].ravel())[0, 1] > 0.8

    state = policy.state()
    decode = counts(rng)
    for booking in made:
        booking.decode_counts = decode
    learned = policy.experts.known.prediction
    policy.on_ended(made[2], Ended.RELEASED)
    assert learned.state()["seen"].tolist() == [3, 0]
    policy.on_ended(made[0], Ended.RELEASED)
    assert learned.state()["seen"].tolist() == [3, 1]
    fourth = booked(fleet, 1, "r3", prefills[0])
    policy.on_booked(fourth)  # there is room again
    np.testing.assert_array_equal(fourth.counts, prefills[0])

    again = MarginalCost()  # as a replay goes on
    again.restore(state)
    assert again.experts.known.learning == 2
    again.on_ended(made[2], Ended.RELEASED)
    again.on_ended(made[0], Ended.RELEASED)
    assert again.experts.known.prediction.state()["seen"].tolist() == [3, 1]


def test_counts_of_too_little_coverage_are_packed_and_count_as_the_mean_request():
    rng, policy, fleet = np.random.default_rng(1), MarginalCost(), snapshot([0, 0])
    policy.on_booked(booked(fleet, 0, "whole", counts(rng)))
    scarce = booked(fleet, 1, "scarce", counts(rng))
    scarce.coverage = 0.1
    policy.on_booked(scarce)
    assert isinstance(scarce.kept, PackedUse)
    known = policy.experts.known
    mean = known.prediction.predict(None)
    assert known.batches.active(fleet.rows)[1] == pytest.approx(mean.sum(), rel=0.02)
    assert known.prediction.state()["seen"].tolist() == [1, 0]


def test_another_policy_is_told_about_what_a_packed_booking_used(monkeypatch):
    monkeypatch.setattr(experts, "LEARNING_BYTES", 0)
    rng, first, fleet = np.random.default_rng(2), MarginalCost(), snapshot([0, 0])
    prefill = counts(rng)
    booking = booked(fleet, 0, "r", prefill)
    first.on_booked(booking)
    second = MarginalCost()
    second.on_booked(booking)
    one, other = (p.experts.known.active(fleet.rows)[0] for p in (first, second))
    assert other == pytest.approx(one, rel=0.1)


def test_a_packed_booking_that_was_written_down_comes_back_as_packed(monkeypatch):
    monkeypatch.setattr(experts, "LEARNING_BYTES", 0)
    rng, fleet = np.random.default_rng(3), snapshot([0, 0])
    first, again = MarginalCost(), MarginalCost()
    made = [booked(fleet, i % 2, f"r{i}", counts(rng)) for i in range(8)]
    for booking in made:
        first.on_booked(booking)
    for booking in made:
        written = kept_of(row_of("m", 1, booking, 0.0))
        np.testing.assert_array_equal(written.counts, booking.counts)
        restored = replace(booking, kept=written.counts)
        again.on_booked(restored)
        assert isinstance(restored.kept, PackedUse)
    one, other = (p.experts.known.active(fleet.rows) for p in (first, again))
    np.testing.assert_allclose(other, one, rtol=0.1)
    for booking in made:
        again.on_ended(booking, Ended.RELEASED)
    assert not again.experts.known.batches._sums.any()
