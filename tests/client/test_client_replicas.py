"""Several addresses are one router: no call fails while one of them is well."""

import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count

import grpc
import pytest
from eldr_client import (
    Counts,
    EldrError,
    LoadReport,
    ReleaseResult,
    RouterClient,
    WorkerSession,
    aio,
)
from name_server import name_server
from redis_server import needs_redis, running_redis
from replicas import running_replicas
from wire import TOP_K, Client, drawn, eventually

MODEL = "m"
# Seconds of a call on a busy machine; a frozen replica costs the call a half of them.
PATIENT = 4.0
# Seconds after which a frozen replica is left, and a moment.
NOTICED = 4.0 + 0.5
FALLBACK = [("client's own", "http://own")]


@pytest.fixture
def replicas():
    with running_replicas() as replicas:
        replicas.register(MODEL, "w0", "w1")
        yield replicas


@contextmanager
def calls(client, threads=4):
    """Route and release until the block ends; no call may fail or be the client's own answer."""
    ending, reasons, errors, numbers = threading.Event(), [], [], count()

    def go_on():
        while not ending.is_set():
            name = f"r{next(numbers)}"
            try:
                placement = client.route(MODEL, name)
                reasons.append(placement.reason)
                client.release(MODEL, name)
            except (EldrError, grpc.RpcError) as error:
                errors.append(error)

    running = [threading.Thread(target=go_on) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        eventually(lambda: len(reasons) > 20)
        yield reasons
        before = len(reasons)
        eventually(lambda: len(reasons) > before + 20)
    finally:
        ending.set()
        for thread in running:
            thread.join()
    assert not errors
    assert "CLIENT_FALLBACK" not in {reason.name for reason in reasons}


def client_of(target, **options):
    return RouterClient(
        target, **{"timeout": PATIENT, "fallback_workers": FALLBACK, "top_k": TOP_K, **options}
    )


def test_calls_take_turns(replicas):
    with client_of(replicas.target) as client:
        client.route(MODEL, "first")
        eventually(lambda: client.route(MODEL, "again") and replicas.booked(1, MODEL) > 0)
        eventually(lambda: client.route(MODEL, "again") and replicas.booked(0, MODEL) > 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_a_replica_that_ends_and_comes_back(replicas, number):
    with client_of(replicas.target) as client, calls(client):
        replicas.send(0, number)
        replicas.restart(0)
        eventually(lambda: replicas.placements(0) > 0)  # calls come again


def all_are_quick(client):
    """No call has asked a frozen replica first, and another one then."""
    for number in range(20):
        start = time.monotonic()
        assert not client.route(MODEL, f"quick-{number}").is_fallback
        assert time.monotonic() - start < PATIENT / 2


def test_a_frozen_replica_is_left_under_calls(replicas):
    with client_of(replicas.target) as client, calls(client), replicas.frozen(0):
        time.sleep(NOTICED)
        all_are_quick(client)


def test_a_frozen_replica_is_left_without_calls(replicas):
    with client_of(replicas.target) as client:
        eventually(lambda: client.route(MODEL, "r") and replicas.booked(0, MODEL) > 0)
        with replicas.frozen(0):
            time.sleep(NOTICED)
            all_are_quick(client)


def test_an_address_that_refuses(replicas, dead_target):
    with client_of(f"{dead_target},{replicas.daemons[1].grpc}") as client, calls(client):
        pass


async def test_asyncio(replicas):
    async with aio.RouterClient(
        replicas.target, timeout=PATIENT, fallback_workers=FALLBACK
    ) as client:
        for number in range(40):
            if number == 20:
                replicas.send(1, signal.SIGKILL)
            placement = await client.route(MODEL, f"r{number}")
            assert placement.reason.name != "CLIENT_FALLBACK"


def test_a_draining_replica_gets_no_new_calls():
    with running_replicas("--drain-seconds", "60") as replicas:
        replicas.register(MODEL, "w0")
        with Client(replicas.daemons[0].grpc) as direct:
            direct.route(MODEL, "keeps it from ending")
            with client_of(replicas.target) as client:
                client.route(MODEL, "connects")
                client.release(MODEL, "connects")
                replicas.send(0, signal.SIGTERM)
                eventually(lambda: client.route(MODEL, "n") and replicas.booked(1, MODEL) > 0)
                time.sleep(0.5)  # the health check's word has come
                held = replicas.booked(0, MODEL)
                for number in range(20):
                    placement = client.route(MODEL, f"new-{number}")
                    assert placement.reason.name != "CLIENT_FALLBACK"
                assert replicas.booked(0, MODEL) == held
                assert replicas.daemons[0].process.poll() is None
        for which in (0, 1):
            replicas.send(which, signal.SIGKILL)  # they would wait for the bookings to end


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_the_stream_of_signatures_moves(replicas, number):
    def send(name, **fields):
        counts = Counts(drawn(0), TOP_K)
        return client.stream_signature(MODEL, name, counts, **fields)

    def is_back(which):
        client.route(MODEL, f"another-{next(numbers)}")
        return replicas.placements(which) > 0

    numbers = count()
    with client_of(replicas.target) as client:
        assert send("before", route={}).worker_id
        for which in (0, 1):
            replicas.send(which, number)
            for each in range(5):
                assert send(f"{which}-{each}", route={}).worker_id
            replicas.restart(which)
            eventually(partial(is_back, which), 20)  # until then the client has only the other


def test_a_worker_moves_to_another_replica(replicas):
    def holders():
        found = []
        for which, daemon in enumerate(replicas.daemons):
            if daemon.process.poll() is None:
                with Client(daemon.grpc) as client:
                    found += [which] * ("moving" in client.workers(MODEL))
        return found

    with WorkerSession(
        "moving", MODEL, "http://moving", LoadReport, target=replicas.target, timeout=PATIENT
    ):
        eventually(lambda: len(holders()) == 1)
        (first,) = holders()
        replicas.send(first, signal.SIGKILL)
        replicas.daemons[first].process.wait()
        eventually(lambda: holders() == [1 - first])


def test_workers_do_not_all_choose_the_first(replicas):
    def home(number):
        with WorkerSession(f"s{number}", MODEL, "http://s", target=replicas.target) as session:
            eventually(lambda: session.incarnation)
            with Client(replicas.daemons[0].grpc) as client:
                return f"s{number}" in client.workers(MODEL)

    assert {home(number) for number in range(20)} == {True, False}


def test_a_worker_leaves_a_frozen_replica(replicas):
    def knows(which):
        with Client(replicas.daemons[which].grpc) as client:
            return "moving" in client.workers(MODEL)

    with WorkerSession("moving", MODEL, "http://moving", target=replicas.target):
        eventually(lambda: knows(0) or knows(1))
        first = 0 if knows(0) else 1
        with replicas.frozen(first):
            eventually(lambda: knows(1 - first), 15)


def test_a_name_with_two_addresses(replicas):
    port = replicas.daemons[0].grpc.rpartition(":")[2]
    replicas.send(1, signal.SIGKILL)
    replicas.start(f"127.0.0.2:{port}")
    replicas.daemons.pop(1)
    replicas.register(MODEL, "w0", "w1")
    with name_server("127.0.0.1", "127.0.0.2") as names:
        target = f"dns://{names.address}/eldr.test:{port}"
        with client_of(target) as client, calls(client):
            eventually(lambda: replicas.booked(0, MODEL) and replicas.booked(1, MODEL))
            replicas.send(0, signal.SIGKILL)


def test_a_name_is_resolved_again(replicas):
    port = replicas.daemons[0].grpc.rpartition(":")[2]
    with ExitStack() as ends:
        names = ends.enter_context(name_server("127.0.0.1"))
        target = f"dns://{names.address}/eldr.test:{port}"
        client = ends.enter_context(client_of(target, timeout=1.0))
        assert client.route(MODEL, "r").reason.name != "CLIENT_FALLBACK"
        names.addresses = ("127.0.0.3",)
        replicas.start(f"127.0.0.3:{port}")
        replicas.register(MODEL, "w0")
        replicas.send(0, signal.SIGKILL)
        replicas.daemons[0].process.wait()
        names_of_calls = map(str, count())  # one that fell back has been released
        eventually(lambda: not client.route(MODEL, next(names_of_calls)).is_fallback, 15)


def test_the_deadline_is_that_of_one_address(black_hole, dead_target):
    with client_of(f"{black_hole},{dead_target},{black_hole}", timeout=2.0) as client:
        start = time.monotonic()
        assert client.route(MODEL, "r").is_fallback
        assert time.monotonic() - start < 2.0 + 1.5


@needs_redis
def test_replicas_of_one_state_know_each_others_bookings(tmp_path):
    with running_redis(tmp_path) as redis, running_replicas("--state", redis.url) as replicas:
        replicas.register(MODEL, "w0", "w1")
        names = [f"r{number}" for number in range(20)]
        with client_of(replicas.target) as client:
            leases = [client.route(MODEL, name).lease_id for name in names]
            replicas.send(0, signal.SIGKILL)
            assert [client.route(MODEL, name).lease_id for name in names] == leases
            assert {client.release(MODEL, name) for name in names} == {ReleaseResult.RELEASED}
