"""Callers that are gone before their answer: what was booked for them ends at once."""

import asyncio
import random
import signal
from contextlib import contextmanager

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from wire import Client, eventually

GONE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
ROOM = fleet_pb2.WorkerCapacity(sequences=1 << 20)
BURST = 1_000


@pytest.fixture(scope="module")
def own():
    """A daemon of these tests' own, as they stop it."""
    with running_daemon("--log-format", "json") as daemon:
        yield daemon


@contextmanager
def stopped(daemon):
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


async def routes(address, model, seconds) -> set[str]:
    """Call Route at once with each of these deadlines; returns the requests that were answered."""
    answered, codes = set(), set()
    async with Client(address, asynchronous=True).channel as channel:
        route = channel.unary_unary(
            "/eldr.v1.RouterService/Route",
            router_pb2.RouteRequest.SerializeToString,
            router_pb2.RouteResponse.FromString,
        )

        async def call(request_id, timeout):
            request = router_pb2.RouteRequest(model=model, request_id=request_id)
            called = route(request, timeout=timeout)
            codes.add(code := await called.code())
            if code is grpc.StatusCode.OK:
                answered.add(request_id)

        await asyncio.gather(*(call(f"r{i}", timeout) for i, timeout in enumerate(seconds)))
    assert codes <= {grpc.StatusCode.OK, *GONE}
    return answered


def test_of_a_burst_only_what_was_answered_stays_booked(own, model):
    rng = random.Random(0)
    with Client(own.grpc) as client:
        client.register(model, capacity=ROOM)
        timeouts = [rng.uniform(0.03, 0.3) for _ in range(BURST)]
        answered = asyncio.run(routes(own.grpc, model, timeouts))
        assert len(answered) < BURST  # else it was no burst
        # An answer that crosses its caller's deadline on the wire cannot be told from one that
        # arrives: on a busy machine a few in a hundred do.
        crossed = (BURST - len(answered)) // 20
        eventually(lambda: client.booked(model) - len(answered) <= crossed)


def test_what_times_out_while_the_daemon_stands_still_is_not_booked(own, model):
    with Client(own.grpc) as client:
        client.register(model, capacity=ROOM)
        client.route(model, "before")
        with stopped(own):
            assert asyncio.run(routes(own.grpc, model, [0.2] * 50)) == set()
        client.route(model, "after")
        assert client.booked(model) == 2


def test_a_retry_has_what_the_call_before_it_left(own, model):
    with Client(own.grpc) as client:
        client.register(model, capacity=ROOM)
        with stopped(own):
            assert asyncio.run(routes(own.grpc, model, [0.2])) == set()
        placed = client.route(model, "r0")
        assert client.route(model, "r0").lease_id == placed.lease_id
        assert client.booked(model) == 1
