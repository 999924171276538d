"""The script that takes in what replicas do, on a real server."""

import asyncio
import time

import numpy as np
import pytest
from fleet_snapshot import booking as booking_on
from fleet_snapshot import snapshot
from redis_server import needs_redis, running_redis

from eldr_service.server.replicas.commits import Commits
from eldr_service.server.replicas.turns import MOST_SECONDS
from eldr_service.stores.records import StoreError
from eldr_service.stores.shared.address import StateAddress
from eldr_service.stores.shared.operations import Result, take_reported, told_of
from eldr_service.stores.shared.state import SharedState

pytestmark = needs_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
async def states(server, request):
    """Two replicas of a deployment of the test's own, with a worker of one place."""
    address = StateAddress.parse(f"{server.url}?name={request.node.name}")
    a, b = (SharedState(address, None, name) for name in "ab")
    assert await a.open() == await b.open()
    assert await words(a, join()) == ["ok"]
    yield a, b
    await a.close()
    await b.close()


def place(
    request="r", lease="l", attempt=0, life=1, capacity=1, known="", settled="", seconds=60.0
):
    milliseconds = round(seconds * 1e3)
    fields = (request, attempt, lease, "w", life, 1, capacity, known, milliseconds, settled)
    return "place", "m", *fields, f"row of {lease}"


def end(how="RELEASED", request="r", lease="l", attempt=0, told=""):
    return "end", "m", request, attempt, lease, how, "w", told


def join(life=1, state="READY"):
    return "join", "m", "w", life, state, f"worker {life}"


async def words(state, *operations):
    _, results = await state.commit(operations)
    return [result.word for result in results]


async def test_a_booking_is_made_once(states):
    a, b = states
    assert await words(a, place(), place()) == ["ok", "ok"]  # sent again after a broken connection
    _, [told] = await b.commit([place(lease="another", capacity=9)])
    assert told == Result("live", (b"row of l",))
    assert await words(b, place("other", "another")) == ["capacity"]
    assert await words(b, place("other", "another", settled="1")) == ["ok"]  # it runs already
    assert [row async for row in b.bookings()] == [b"row of l", b"row of another"]


async def test_a_decision_that_knew_of_less_load_is_made_again(states):
    a, b = states
    assert await words(a, place(known=0, capacity=9)) == ["ok"]
    other = "other", "another"
    assert await words(b, place(*other, known=0, capacity=9)) == ["load"]
    assert await words(b, place(*other, known=1, capacity=9)) == ["ok"]
    assert await words(b, place("third", "third", capacity=9)) == ["ok"]  # it insists


async def test_an_attempt_that_has_ended_is_not_placed_again(states):
    a, b = states
    assert await words(a, place(attempt=1), end(attempt=1)) == ["ok", "ended"]
    assert await words(b, end(attempt=1), end(attempt=1, lease="")) == ["known", "known"]
    for attempt, word in ((1, "ended"), (0, "ended"), (2, "ok")):
        assert await words(b, place(attempt=attempt, lease=f"l{attempt}")) == [word]


async def test_what_a_release_reports_reaches_those_that_have_the_booking(states):
    a, b = states
    await a.commit([place()])
    told = told_of(7, 0.5, np.array([[1, 2]], np.uint16))
    assert await words(b, end("RELEASED_EARLY", lease="", told=told)) == ["ended"]
    *_, change = await a.changes("0-0")
    booking = booking_on(snapshot([0]), 0)
    take_reported(booking, change.fields[6])
    assert (booking.output_tokens, booking.decode_seconds) == (7, 0.5)
    assert booking.decode_counts.tolist() == [[1, 2]]


async def test_a_release_that_comes_first_is_remembered(states):
    a, b = states
    assert await words(a, end("RELEASED_EARLY", lease="")) == ["noted"]
    _, [told] = await b.commit([place()])
    assert told == Result("ended", (b"0", b"RELEASED_EARLY"))


async def test_a_lease_that_was_renewed_does_not_expire(states):
    a, b = states
    await a.commit([place(seconds=0.05)])
    assert await words(b, ("update", "m", "r", "l", 60_000, "row of l")) == ["ok"]
    time.sleep(0.1)
    assert await words(a, end("EXPIRED")) == ["renewed"]
    assert await words(b, ("update", "m", "r", "l", 1, "row of l")) == ["ok"]
    time.sleep(0.1)
    assert await words(a, end("EXPIRED"), end("EXPIRED")) == ["ended", "known"]


async def test_only_the_life_and_state_that_were_seen_get_requests(states):
    a, b = states
    await a.commit([place()])
    assert await words(b, join(2)) == ["ok"]  # which ends what the first life had
    assert [row async for row in a.bookings()] == []
    assert await words(a, place("x", "x", life=1)) == ["worker"]
    assert await words(a, ("save", "m", "w", 1, "READY", "late", "READY")) == ["gone"]
    assert await words(a, ("save", "m", "w", 2, "DRAINING", "drains", "READY")) == ["ok"]
    # A slot, say, that is written down by a replica that does not know of the drain yet.
    assert await words(a, ("save", "m", "w", 2, "READY", "late", "READY")) == ["moved"]
    assert await words(a, place("x", "x", life=2)) == ["worker"]
    assert await words(a, ("know", "m", "w", 1, "READY", "older")) == ["known"]
    assert (
        await words(a, ("know", "m", "w", 3, "READY", "younger"), place("x", life=3)) == ["ok"] * 2
    )


async def test_a_worker_that_any_replica_hears_is_not_gone(states):
    a, b = states
    await a.commit([place()])
    time.sleep(0.2)
    assert await words(b, ("report", "m", "w", 1, "{}")) == ["ok"]
    assert await words(a, ("gone", "m", "w", 1, 150)) == ["seen"]
    time.sleep(0.2)
    assert await words(a, ("gone", "m", "w", 1, 150), ("gone", "m", "w", 1, 0)) == ["ok", "gone"]
    assert [row async for row in a.bookings()] == []
    assert await words(b, ("report", "m", "w", 2, "{}"), join(4), place("x", life=4)) == [
        *("ok", "ok", "ok")
    ]


async def test_of_two_changes_of_a_model_one_wins(states):
    a, b = states
    assert await words(a, ("model", "m", "", "first")) == ["ok"]
    _, [told] = await b.commit([("model", "m", "", "other")])
    assert told == Result("changed", (b"first",))
    assert await words(b, ("model", "m", "first", "second")) == ["ok"]
    assert await words(a, ("partition", "m", 1, b"\0\xff"), ("partition", "m", 1, b"")) == [
        *("ok", "changed")
    ]
    assert await b.partition("m", 1) == b"\0\xff"


async def test_changes_come_in_one_order_and_refusals_are_none(states):
    a, b = states
    position, _ = await a.commit([place(), place("x", "x"), end()])
    changes = await b.changes("0-0")
    assert [(c.replica, c.kind) for c in changes] == [("a", "join"), ("a", "place"), ("a", "end")]
    assert changes[-1].position == position == await b.last_position()
    assert changes[1].fields[11] == b"row of l"
    assert await b.has(position)
    assert not await b.has("1-1")


async def test_one_leads(states):
    a, b = states
    assert (await a.lead(0.3), await b.lead(0.3), await a.lead(0.3)) == (True, False, True)
    assert await words(a, ("slots", "m", "")) == ["ok"]
    assert await words(b, ("slots", "m", "")) == ["gone"]
    await a.let_lead()
    assert await b.lead(0.3)


async def test_the_servers_clock_counts_not_the_hosts(states):
    a, _ = states
    a.clock += 5.0
    await a.commit([place()])
    assert abs(a.clock + time.monotonic() - time.time()) < 1


async def test_another_schema_is_told_of(server):
    address = StateAddress.parse(f"{server.url}?name=newer")
    server.ask("HSET {newer}:state schema 2")
    with pytest.raises(StoreError, match=r"another version of eldr-server \(schema 2,"):
        await SharedState(address, None, "a").open()


async def test_a_password_opens(tmp_path):
    secret = tmp_path / "password"
    with running_redis(tmp_path / "redis", "--requirepass", "secret") as server:
        address = StateAddress.parse(server.url)
        for given in ("wrong", "someone:secret"):
            secret.write_text(f"{given}\n")
            with pytest.raises(StoreError) as error:
                await SharedState(address, secret, "a").open()
            assert given not in str(error.value)
        with pytest.raises(StoreError, match="authenticated"):
            await SharedState(address, None, "a").open()
        with pytest.raises(StoreError, match="No such file"):
            await SharedState(address, tmp_path / "none", "a").open()
        for given in ("secret", "default:secret"):
            secret.write_text(f"{given}\n")
            state = SharedState(address, secret, "a")
            assert await state.open()
            await state.close()


async def test_operations_that_take_long_to_make_leave_others_their_turns(states):
    a, _ = states
    turns = 0

    def make():
        began = time.perf_counter()
        while time.perf_counter() - began < 2 * MOST_SECONDS:
            pass
        made.append(turns)
        return place()

    made: list[int] = []
    commits = Commits(a)
    for _ in range(10):
        commits.add(make)
    task = asyncio.create_task(commits.run())
    while len(made) < 10:
        turns += 1
        await asyncio.sleep(0)
    await commits.through()
    task.cancel()
    assert len(set(made)) == 10
