"""WatchMoves over a socket: what is proposed, to whom, and how it is carried out."""

import threading

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from eldr_client import RouterClient
from eldr_client.aio import RouterClient as AsyncRouterClient
from google.protobuf.duration_pb2 import Duration
from wire import Client, Refused, counts, drawn, eventually

POLICY = "marginal-cost:moves=true,move_seconds=0.001"


@pytest.fixture
def daemon():
    with running_daemon("--policy", POLICY) as daemon, Client(daemon.grpc) as client:
        for number, worker in enumerate(("w0", "w1")):
            incarnation = client.register("m", worker)
            for batch in range(1, 9):  # steps by experts and sequences, in seconds
                step = Duration()
                step.FromNanoseconds(int((2 + batch + 0.1 * batch) * 1e6))
                client.fleet.ReportLoad(
                    fleet_pb2.ReportLoadRequest(
                        model="m",
                        worker_id=worker,
                        incarnation=incarnation,
                        report_number=batch,
                        active_experts=float(batch + number % 2),
                        batch_size=float(batch),
                        step_time=step,
                    )
                )
        client.route("m", "ended", counts=counts(drawn(0)), pinned_worker="w0")
        client.release("m", "ended", output_tokens=1_000)
        yield daemon


def crossed(client, request_id="odd", movable=True):
    """Requests of kind 0 on w0 and of kind 1 on w1, and one of kind 1 on w0."""
    for number in range(6):
        client.route("m", f"a{number}", counts=counts(drawn(0, number)), pinned_worker="w0")
        client.route("m", f"b{number}", counts=counts(drawn(1, number)), pinned_worker="w1")
    client.route(
        "m",
        request_id,
        counts=counts(drawn(1, 99)),
        pinned_worker="w0",
        movable=movable,
        expected_output_tokens=1_000,
    )


def events(client, stopping):
    """Bookings and ends go on, after which moves are looked for."""
    number = 0
    while not stopping.wait(0.05):
        number += 1
        client.route("m", f"e{number}", counts=counts(drawn(number % 2, number)))
        client.release("m", f"e{number}", output_tokens=1_000)


@pytest.fixture
def busy(daemon):
    stopping = threading.Event()
    with Client(daemon.grpc) as client:
        thread = threading.Thread(target=events, args=(client, stopping))
        thread.start()
        yield daemon
        stopping.set()
        thread.join()


def test_a_request_that_fits_better_elsewhere_is_proposed_and_moved(busy):
    with Client(busy.grpc) as client, RouterClient(busy.grpc, timeout=5.0) as router:
        crossed(client)
        move = next(iter(router.watch_moves("m")))
        assert (move.request_id, move.attempt, move.worker_id) == ("odd", 0, "w0")
        assert (move.target.worker_id, move.target.url) == ("w1", "http://w1")
        assert move.gain > 0
        moved = client.route(
            "m",
            move.request_id,
            attempt=move.attempt + 1,
            pinned_worker=move.target.worker_id,
            counts=counts(drawn(1, 99)),
        )
        assert moved.worker_id == "w1"
        assert client.release("m", "odd", attempt=0) == "ALREADY_RELEASED"
        assert client.release("m", "odd", attempt=1) == "RELEASED"


async def test_asyncio_and_every_watcher_is_told(busy):
    with Client(busy.grpc) as client:
        crossed(client)
    async with AsyncRouterClient(busy.grpc) as one, AsyncRouterClient(busy.grpc) as other:
        for router in one, other:
            async for move in router.watch_moves("m"):
                assert move.request_id == "odd"
                break


def test_requests_that_may_not_move_are_not_proposed(busy):
    with Client(busy.grpc) as client:
        crossed(client, movable=False)
        watch = client.router.WatchMoves(router_pb2.WatchMovesRequest(model="m"), timeout=2)
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_target_that_is_full_leaves_the_request_where_it_is():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m", "w0")
        client.register("m", "w1", capacity=fleet_pb2.WorkerCapacity(sequences=1))
        client.route("m", "r", pinned_worker="w0")
        client.route("m", "full", pinned_worker="w1")
        with Refused("RESOURCE_EXHAUSTED"):
            client.route("m", "r", attempt=1, pinned_worker="w1")
        assert client.route("m", "r", pinned_worker="w0").repeated
        client.release("m", "full")
        assert client.route("m", "r", attempt=1, pinned_worker="w1").worker_id == "w1"


def test_a_model_must_be_named(daemon):
    with Client(daemon.grpc) as client, pytest.raises(grpc.RpcError) as refused:
        next(client.router.WatchMoves(router_pb2.WatchMovesRequest()))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_only_so_many_watch(daemon):
    request = router_pb2.WatchMovesRequest(model="m")
    with Client(daemon.grpc) as client:
        watches = [client.router.WatchMoves(request) for _ in range(65)]
        eventually(lambda: any(watch.done() for watch in watches))
        (refused,) = (watch for watch in watches if watch.done())
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watch in watches:
            watch.cancel()

        def is_taken():
            with pytest.raises(grpc.RpcError) as ended:
                next(client.router.WatchMoves(request, timeout=1))
            return ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        eventually(is_taken)
