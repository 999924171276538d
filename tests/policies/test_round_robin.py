from fleet_snapshot import booking, request, snapshot

from eldr_service.policies.round_robin import RoundRobin


def book(policy, fleet):
    worker = policy.pick(request(), fleet).worker
    assert policy.pick(request(), fleet).worker == worker, "a dry run must repeat"
    policy.on_booked(booking(fleet, worker))
    return fleet.worker_ids[worker]


def test_everybody_in_turn_whatever_the_load():
    policy, fleet = RoundRobin(), snapshot([7, 0, 3], capacity=[8, 64, 8])
    assert [book(policy, fleet) for _ in range(6)] == 2 * ["w0", "w1", "w2"]


def test_who_cannot_is_passed_over_without_drift():
    policy = RoundRobin()
    some, all_four = snapshot([0] * 4, eligible=[1, 0, 1, 0]), snapshot([0] * 4)
    assert [book(policy, some) for _ in range(4)] == ["w0", "w2", "w0", "w2"]
    assert [book(policy, all_four) for _ in range(3)] == ["w3", "w0", "w1"]


def test_long_run_is_even_under_changing_eligibility():
    """A worker out every other time costs its own turns only."""
    policy, turns = RoundRobin(), dict.fromkeys(("w0", "w1", "w2", "w3"), 0)
    for number in range(400):
        turns[book(policy, snapshot([0] * 4, eligible=[1, 1, 1, number // 100 % 2]))] += 1
    assert turns["w3"] == 50
    assert (
        max(turns["w0"], turns["w1"], turns["w2"]) - min(turns["w0"], turns["w1"], turns["w2"]) < 3
    )


def test_turn_goes_on_when_the_last_one_is_gone():
    policy, fleet = RoundRobin(), snapshot([0] * 4)
    assert [book(policy, fleet) for _ in range(2)] == ["w0", "w1"]
    assert book(policy, snapshot([0] * 3, ids=["w0", "w2", "w3"])) == "w2"


def test_next_tenant_of_a_row_does_not_inherit_the_turn():
    policy, fleet = RoundRobin(), snapshot([0] * 3)
    for _ in range(2):
        book(policy, fleet)
    rows = fleet.rows[[0, 2, 1]]
    moved = snapshot([0] * 3, ids=["w0", "w2", "w9"])
    moved.rows[:] = rows  # w9 registered last and got w1's row
    assert book(policy, moved) == "w2"
    assert book(policy, moved) == "w9"
    assert book(policy, moved) == "w0"


def test_newcomer_is_reached_in_the_same_round():
    policy = RoundRobin()
    book(policy, snapshot([0, 0]))
    assert [book(policy, snapshot([0, 0, 0])) for _ in range(3)] == ["w1", "w2", "w0"]


def test_pinned_booking_passes_the_turn_on():
    policy, fleet = RoundRobin(), snapshot([0] * 4)
    policy.on_booked(booking(fleet, 2))
    assert book(policy, fleet) == "w3"


def test_remembers_no_more_than_the_rows_of_the_fleet():
    policy = RoundRobin()
    for life in range(100):
        fleet = snapshot([0, 0], ids=[f"w{2 * life}", f"w{2 * life + 1}"])
        fleet.rows[:] = [0, 1]
        book(policy, fleet)
        book(policy, fleet)
    assert len(policy._turns) == 2
