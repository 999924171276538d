"""`place` keeps its lease alive while its block lasts, and no longer."""

import asyncio
import contextlib
import datetime
import threading
import time

import grpc
import pytest
from eldr.v1 import router_pb2
from eldr_client import HeldPlacement, RouterClient, aio
from eldr_client.renewals import Renewals
from scripted_router import refuse
from wire import eventually


@pytest.fixture
def lives(router):
    """Seconds that the router gives each request's lease; 900 where it says nothing."""
    lives = {}

    def answer(request, context):
        response = router._Route(request, context)
        life = lives.get(request.request_id, 900)
        response.placement.lease_remaining.FromMilliseconds(int(life * 1000))
        return response

    router.script["Route"] = answer
    return lives


def renewed(router):
    return [
        lease.request_id for request in router.requests("RenewLeases") for lease in request.leases
    ]


def test_a_short_lease_is_renewed_beside_one_that_waits_long(router, lives):
    lives["short"] = 0.6
    with RouterClient(router.target, timeout=5) as client, client.place("m", "long"):
        with client.place("m", "short") as placement:
            eventually(lambda: renewed(router)[:2] == ["short", "short"])
        [lease] = router.requests("RenewLeases")[0].leases
        assert lease.lease_id == placement.lease_id
        time.sleep(0.3)  # one that was under way
        so_far = len(renewed(router))
        time.sleep(0.6)
        assert len(renewed(router)) == so_far


async def test_a_short_lease_is_renewed_beside_one_that_waits_long_asyncio(router, lives):
    lives["short"] = 0.6
    async with aio.RouterClient(router.target, timeout=5) as client, client.place("m", "long"):
        async with client.place("m", "short"):
            while renewed(router)[:2] != ["short", "short"]:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        so_far = len(renewed(router))
        await asyncio.sleep(0.6)
        assert len(renewed(router)) == so_far


def test_leases_of_one_time_go_in_one_message(router, lives):
    lives.update({f"r{n}": 3.0 for n in range(20)})
    with RouterClient(router.target, timeout=5) as client, contextlib.ExitStack() as blocks:
        for n in range(20):
            blocks.enter_context(client.place("m", f"r{n}"))
        eventually(lambda: len(renewed(router)) == 20)
        assert len(router.requests("RenewLeases")) < 5


def test_a_booking_that_the_router_forgot_is_said_and_not_asked_for_again(router, lives, caplog):
    lives["gone"] = 0.6
    router.script["RenewLeases"] = lambda request, _: router_pb2.RenewLeasesResponse(
        unknown=request.leases
    )
    with RouterClient(router.target, timeout=5) as client, client.place("m", "gone"):
        eventually(lambda: "the booking of gone ended before its block" in caplog.text)
        time.sleep(0.5)
    assert renewed(router) == ["gone"]


def test_a_renewal_that_is_refused_is_tried_again(router, lives, caplog):
    lives["r"] = 0.6
    router.script["RenewLeases"] = lambda _, context: refuse(
        context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy"
    )
    with RouterClient(router.target, timeout=5) as client, client.place("m", "r"):
        eventually(lambda: len(renewed(router)) >= 2)
    assert "1 leases were not renewed" in caplog.text


def test_what_renews_ends_after_the_last_lease(router, lives, monkeypatch):
    monkeypatch.setattr("eldr_client.client.LINGER", 0.1)
    client = RouterClient(router.target, timeout=5)
    with client.place("m", "r"):
        assert "eldr-renewals" in {thread.name for thread in threading.enumerate()}
    eventually(lambda: client._renewing is None)
    with client.place("m", "s"):
        assert client._renewing is not None
    client.close()
    eventually(lambda: client._renewing is None)


def test_many_leases_go_in_several_messages():
    renewals = Renewals()
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.01)
    for n in range(2_500):
        placement = HeldPlacement("w", "http://w", lease_id=f"l{n}", lease_expires_at=expires)
        renewals.hold(router_pb2.RouteRequest(model="m", request_id=f"r{n}"), placement)
    time.sleep(0.11)
    messages = renewals.take_due()
    assert sum(len(message.leases) for message in messages) == 2_500
    assert max(len(message.leases) for message in messages) <= 1_000
