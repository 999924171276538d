"""Moves of running requests: the rule against a plain statement, and what keeps them still."""

import numpy as np
import pytest
from expert_bookings import EXPERTS, LAYERS, booked, counts
from fleet_snapshot import snapshot

from eldr_service.core.decision import Reason
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport
from eldr_service.kernels import best_move
from eldr_service.policies.marginal_cost import MarginalCost, MarginalCostParameters

SIZE = LAYERS * EXPERTS


def report(policy, worker_id, number, seconds=5e-3):
    measured = LoadReport(1, number, active_experts=8.0, batch_size=4.0, step_seconds=seconds)
    policy.on_reported(worker_id, measured)


def moving(**parameters):
    return MarginalCost(MarginalCostParameters(moves=True, **parameters))


def held_on(policy, fleet, workers, rng):
    """Bookings of random experts on these workers, after one that ended and said its tokens."""
    ended = booked(fleet, 0, "ended", counts(rng), output_tokens=100, decode_counts=counts(rng, 50))
    policy.on_booked(ended)
    bookings = [booked(fleet, w, f"r{i}", counts(rng)) for i, w in enumerate(workers)]
    for booking in bookings:
        policy.on_booked(booking)
    policy.on_ended(ended, Ended.RELEASED)
    return bookings


def plain(policy, bookings, fleet):
    """Seconds saved by each booking at each worker, -infinity where it may not go."""
    known, cost = policy.experts.known, policy.cost.coefficients
    where = {row: w for w, row in enumerate(fleet.rows.tolist())}
    speed, n = policy.cost.speeds(fleet.worker_ids), fleet.sequences
    sums = known.batches._sums[fleet.rows] / 2048.0
    requests = known.batches._requests[fleet.rows]
    mean = n[fleet.eligible].mean()

    def step(w, unused, sequences):
        active = (1 - unused).sum() / LAYERS
        return speed[w] * (cost.fixed + cost.expert * active + cost.sequence * sequences)

    now = np.array([step(w, np.exp(-sums[w]), n[w]) for w in range(len(n))])
    found = np.full((len(bookings), len(n)), -np.inf)
    for i, left in enumerate(policy.remaining.tokens_left(bookings)):
        data = known.held[bookings[i].key].data
        groups = data[48:].astype(np.int64).reshape(-1, 3) @ [1, 1 << 8, 1 << 16]
        ranges = ((groups[:, None] >> 3 * np.arange(8)) & 7).ravel()[:SIZE]
        term = data[:16].view(np.uint16)[ranges] / 2048.0
        uses, a = 1 - np.exp(-term), where[bookings[i].row]

        def later(w, others, size, uses=uses):
            beside = np.exp(-others * (mean / size if size else 0.0))
            return speed[w] * cost.expert * mean * (beside @ uses) / LAYERS

        for b in range(len(n)):
            joined = step(b, np.exp(-sums[b] - term), n[b] + 1)
            if b == a or not fleet.eligible[b]:
                continue
            if joined > (1 + policy.parameters.tail) * now[fleet.eligible].mean():
                continue
            saved = now[a] * n[a] + now[b] * n[b] - joined * (n[b] + 1)
            saved -= step(a, np.exp(-sums[a] + term), n[a] - 1) * (n[a] - 1)
            saved *= 0.5
            saved += later(a, sums[a] - term, requests[a] - 1)
            at_mean = known.batches._unused_at_mean[fleet.rows[b]] / 127
            saved -= speed[b] * cost.expert * mean * (at_mean @ uses) / LAYERS
            found[i, b] = left * saved
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_move_is_the_plain_statements(seed):
    rng = np.random.default_rng(seed)
    policy = moving(tail=float(rng.choice([0.1, 5.0])), move_seconds=1e-9)
    workers = rng.integers(0, 3, 14)
    empty = snapshot([0, 0, 0])
    for number in range(20):
        for worker_id in empty.worker_ids:
            report(policy, worker_id, number)
    bookings = held_on(policy, empty, workers, rng)
    eligible = [True, True, bool(seed % 2)]
    fleet = snapshot(np.bincount(workers, minlength=3), [100] * 3, eligible)
    expected = plain(policy, bookings, fleet)
    move = policy.move(bookings, fleet)
    if expected.max() <= 0:
        assert move is None
        return
    assert move is not None
    chosen = expected[bookings.index(move.booking), move.worker]
    # What is unused is kept in 127ths: of nearly equal ones either is right.
    assert chosen == pytest.approx(expected.max(), rel=0.05, abs=0.02)
    assert move.gain_seconds == pytest.approx(chosen, rel=0.05, abs=0.02)


def crowded(policy, held=(8, 0)):
    """Two workers that hold this many requests."""
    empty = snapshot([0, 0])
    for number in range(5):
        report(policy, "w0", number)
        report(policy, "w1", number)
    workers = np.repeat([0, 1], held).tolist()
    bookings = held_on(policy, empty, workers, np.random.default_rng(0))
    return bookings, snapshot(held, [100, 100])


def test_nothing_moves_unless_it_is_told_to_and_gains_several_times_the_price():
    for policy, moves in (
        (MarginalCost(), False),
        (moving(), True),
        (moving(move_seconds=10.0), False),
    ):
        bookings, fleet = crowded(policy)
        move = policy.move(bookings, fleet)
        assert (move is not None) is moves
        assert move is None or move.worker == 1


@pytest.mark.parametrize(
    ("held", "share"), [((4, 0), 1 / 4), ((8, 0), 1 / 2), ((12, 4), 1), ((20, 10), 1)]
)
def test_a_saving_counts_in_full_from_eight_sequences_a_worker_on(held, share):
    def found(price):
        policy = moving(move_seconds=price)
        return policy.move(*crowded(policy, held))

    saved = found(1e-9).gain_seconds
    assert found(0.99 * share * saved / 5)
    assert found(1.01 * share * saved / 5) is None


def test_nothing_moves_before_steps_and_tokens_are_known():
    bookings, fleet = crowded(policy := moving())
    assert policy.move(bookings, fleet)
    policy.remaining.means = np.array([20.0, 10.0, 0.0])  # no release has said its tokens
    assert policy.move(bookings, fleet) is None
    unmeasured = moving()
    assert (
        unmeasured.move(held_on(unmeasured, fleet, [0] * 8, np.random.default_rng(0)), fleet)
        is None
    )


def test_a_request_of_several_sequences_stays():
    policy = moving()
    bookings, fleet = crowded(policy)
    for booking in bookings:
        booking.num_sequences = 2
    assert policy.move(bookings, fleet) is None


def test_a_moved_request_has_as_much_left_as_before_and_another_retry_all():
    policy = moving()
    bookings, fleet = crowded(policy)
    first = bookings[0]
    before = policy.remaining.tokens_left([first])
    whole = policy.remaining.tokens_left(bookings).max()
    policy.on_ended(first, Ended.SUPERSEDED)
    (resumed := moving()).restore(policy.state())  # a log's next file may begin here
    policy = resumed
    second = booked(fleet, 1, first.request_id, first.kept, attempt=1, reason=Reason.PINNED)
    policy.on_booked(second)
    assert policy.remaining.tokens_left([second]) == before
    policy.on_ended(second, Ended.SUPERSEDED)
    third = booked(fleet, 0, first.request_id, first.kept, attempt=2)
    policy.on_booked(third)
    assert policy.remaining.tokens_left([third]) == whole > before


def test_the_kernel_says_what_does_not_fit():
    one, row = np.zeros(1, np.int64), np.zeros((1, SIZE))
    fits = {
        "packed": np.zeros((1, 48 + 3 * SIZE // 8), np.uint8), "at": one, "left": np.ones(1),
        "eligible": np.ones(1, bool), "sequences": one, "rows": one,
        "sums": row.astype(np.int32), "unused": row.astype(np.int8),
        "unused_at_mean": row.astype(np.int8), "requests": one,
        "active": np.zeros(1), "speed": np.ones(1),
    }  # fmt: skip
    costs = (1.0, 1.0, 1.0, 0.1, LAYERS)
    assert best_move(*fits.values(), *costs) == (-1, -1, 0.0)
    wrong = {
        "left": (np.ones(2), "one entry per candidate"),
        "rows": (one + 1, "rows must be below"),
        "at": (one + 1, "a candidate's worker"),
        "speed": (np.ones(2), "one entry per worker"),
        "unused": (np.zeros((2, SIZE), np.int8), "the same shape"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            best_move(*(fits | {name: value}).values(), *costs)
