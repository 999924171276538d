"""How many calls may be in progress, and on how many connections."""

import resource
import socket
import time
from contextlib import ExitStack, suppress

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import Client, Refused, eventually

MOST = 8
ROOM = fleet_pb2.WorkerCapacity(sequences=1)


def waiting(client, model, request_id, **options):
    request = router_pb2.RouteRequest(
        model=model, request_id=request_id, max_wait=Duration(seconds=60)
    )
    return client.router.Route.future(request, timeout=90, **options)


@pytest.fixture
def flooded():
    """A daemon whose calls are all taken by the model `flood`; its one place is r's."""
    flags = ("--max-calls-in-all", str(MOST), "--log-format", "json")
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        for model in ("flood", "calm"):
            client.register(model, capacity=ROOM)
        client.route("flood", "r")
        held = [waiting(client, "flood", f"f{number}") for number in range(MOST)]

        def is_full():
            try:
                client.route("flood", "r")
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

        eventually(is_full)
        yield client, held


def test_who_has_the_most_is_refused_at_once(flooded):
    client, _ = flooded
    with Refused("RESOURCE_EXHAUSTED") as refused:
        client.route("flood", "more")
    assert refused.status.reason == "TOO_MANY_CALLS"
    assert 0.5 <= refused.status.retry_seconds <= 1
    assert f"{MOST} calls in progress, {MOST} of them" in refused.status.message
    answers = client.router.RouteStream(iter([]), timeout=10)
    assert list(answers) == []  # nothing of no model was in progress


def test_others_are_let_in(flooded):
    client, held = flooded
    assert client.route("calm", "c").worker_id == "w0"
    assert not any(call.done() for call in held)


def test_others_have_their_share_and_no_more(flooded):
    client, _ = flooded
    client.route("calm", "c")
    calm = [waiting(client, "calm", f"c{number}") for number in range(MOST)]
    eventually(lambda: sum(call.done() for call in calm) == MOST // 2)
    refused = [call.exception(0) for call in calm if call.done()]
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_what_ends_load_is_never_refused(flooded):
    client, held = flooded
    assert client.release("flood", "r") == "RELEASED"
    assert held[0].result(20).placement.worker_id == "w0"
    client.workers("flood")
    client.register("flood", "w1")


def test_streams_count(flooded):
    client, held = flooded
    for call in held:
        call.cancel()
    watches = [client.watch(timeout=60) for _ in range(MOST)]
    for watch in watches:
        eventually(lambda w=watch: next(w).synchronized)
    with Refused("RESOURCE_EXHAUSTED") as refused:
        next(client.watch())
    assert 0.5 <= refused.status.retry_seconds <= 1
    watches[0].cancel()

    def is_let_in():
        with suppress(grpc.RpcError):
            return bool(next(client.watch()))

    eventually(is_let_in)


def settings_of_server(address):
    """Whether the server talks to a new connection; and the connection."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    try:
        return bool(connection.recv(1)), connection
    except ConnectionResetError:
        return False, connection


def test_further_connections_are_closed_at_once():
    with running_daemon("--max-connections", "5") as daemon, ExitStack() as opened:
        talks = []
        for _ in range(8):
            talk, connection = settings_of_server(daemon.grpc)
            opened.enter_context(connection)
            talks.append(talk)
        assert talks == [True] * 5 + [False] * 3
        opened.close()
        with Client(daemon.grpc) as client:
            eventually(lambda: works(client))


def works(client):
    try:
        return client.workers() == {}
    except grpc.RpcError:
        return False


def test_connections_leave_files_for_everything_else():
    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 180))

    flags = ("--log-format", "json")
    with running_daemon(*flags, before=few_files) as daemon, ExitStack() as opened:
        (line,) = (x for x in daemon.logs if "max-connections" in x["event"])
        assert (line["most"], line["wanted"]) == (180 - 128, 4_096)
        with Client(daemon.grpc) as client:
            assert client.workers() == {}
            for _ in range(200):
                opened.enter_context(settings_of_server(daemon.grpc)[1])
            time.sleep(0.2)
            client.register("m")  # those that were there go on
            opened.close()
            with Client(daemon.grpc) as another:
                eventually(lambda: another.workers("m"))
