"""`place` releases on every way out."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap

import grpc
import numpy as np
import pytest
from eldr_client import Counts, RouterClient, aio
from scripted_router import refuse
from wire import eventually

COMPLETED, FAILED, CANCELLED = 1, 2, 3

EXITS = [
    (None, COMPLETED),
    (ValueError("the decode failed"), FAILED),
    (KeyboardInterrupt(), CANCELLED),
    (GeneratorExit(), CANCELLED),
    (SystemExit(1), CANCELLED),
    (asyncio.CancelledError(), CANCELLED),
]


@pytest.mark.parametrize(("error", "outcome"), EXITS)
async def test_each_exit_path(router, error, outcome):
    swallowed = contextlib.suppress(BaseException)
    with (
        RouterClient(router.target, timeout=5) as client,
        swallowed,
        client.place("m", "sync", attempt=4) as placement,
    ):
        assert router.held == {("sync", 4): placement.lease_id}
        if error is not None:
            raise error
    async with aio.RouterClient(router.target, timeout=5) as client:
        with swallowed:
            async with client.place("m", "aio", attempt=4):
                assert router.held
                if error is not None:
                    raise error
    assert not router.held
    assert [(r.request_id, r.outcome) for r in router.requests("Release")] == [
        ("sync", outcome),
        ("aio", outcome),
    ]


@pytest.mark.parametrize("error", [RuntimeError("mine"), None])
def test_what_is_set_on_the_placement_goes_into_the_release(router, error):
    with (
        RouterClient(router.target, timeout=5) as client,
        contextlib.suppress(RuntimeError),
        client.place("m", "r") as placement,
    ):
        placement.output_tokens = 128
        placement.decode_duration = 1.5
        placement.decode_counts = Counts(np.array([[2, 2]]), 2)
        placement.outcome = "CANCELLED"
        if error is not None:
            raise error
    (release,) = router.requests("Release")
    assert release.lease_id == "lease-r-0"
    assert (release.output_tokens, release.outcome) == (128, CANCELLED)
    assert release.decode_duration.ToTimedelta().total_seconds() == 1.5
    assert release.decode_counts.num_tokens == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("decode_counts", np.array([[1, 2]])), ("output_tokens", -1), ("outcome", "DONE")],
)
def test_wrong_statistics_do_not_keep_a_booking_alive(router, name, value):
    with RouterClient(router.target, timeout=5) as client, client.place("m", "r") as placement:
        setattr(placement, name, value)
    assert not router.held


def test_a_refused_release_does_not_hide_the_blocks_own_error(router):
    router.script["Release"] = lambda _, context: refuse(context, grpc.StatusCode.NOT_FOUND, "no")
    with RouterClient(router.target, timeout=5) as client:
        with pytest.raises(ZeroDivisionError), client.place("m", "r"):
            _ = 1 / 0
        with client.place("m", "s"):
            pass


def slowly_booking(router):
    """Route books at once, and answers only when told."""

    def route(request, context):
        answer = router._Route(request, context)
        router.hold.wait(20)
        return answer

    return route


async def test_asyncio_cancellation_while_route_is_under_way(router):
    router.script["Route"] = slowly_booking(router)
    async with aio.RouterClient(router.target, timeout=15) as client:

        async def decode() -> None:
            async with client.place("m", "r", attempt=1):
                pytest.fail("entered")

        task = asyncio.create_task(decode())
        await asyncio.to_thread(eventually, lambda: router.held)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(eventually, lambda: not router.held)
    (release,) = router.requests("Release")
    assert (release.request_id, release.attempt, release.lease_id) == ("r", 1, "")
    assert release.outcome == CANCELLED


async def test_asyncio_cancellation_in_the_block_and_again_in_the_release(router):
    def release(request, context):
        router.hold.wait(20)
        return router._Release(request, context)

    router.script["Release"] = release
    async with aio.RouterClient(router.target, timeout=15) as client:
        entered = asyncio.Event()

        async def decode() -> None:
            async with client.place("m", "r"):
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(decode())
        await entered.wait()
        task.cancel()
        await asyncio.to_thread(eventually, lambda: router.requests("Release"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        router.hold.set()
        await asyncio.to_thread(eventually, lambda: not router.held)


async def test_an_abandoned_async_generator_releases(router):
    async with aio.RouterClient(router.target, timeout=5) as client:

        async def tokens():
            async with client.place("m", "r"):
                while True:
                    yield "token"

        stream = tokens()
        await anext(stream)
        assert router.held
        await stream.aclose()
        assert not router.held
    assert router.requests("Release")[0].outcome == CANCELLED


def test_a_lost_answer_is_released_by_identity(router):
    router.script["Route"] = slowly_booking(router)
    known = [("w9", "http://w9")]
    with RouterClient(router.target, timeout=1, fallback_workers=known) as client:
        with client.place("m", "r", attempt=2) as placement:
            assert placement.is_fallback
            assert ("r", 2) in router.held
        router.hold.set()
        eventually(lambda: not router.held)
    (release,) = router.requests("Release")
    assert (release.attempt, release.lease_id, release.outcome) == (2, "", CANCELLED)


@pytest.mark.parametrize("where", ["route", "block"])
def test_ctrl_c_ends_the_program_but_not_before_its_release(router, where):
    if where == "route":
        router.script["Route"] = slowly_booking(router)
    program = textwrap.dedent(f"""
        import time, eldr_client
        client = eldr_client.RouterClient({router.target!r}, timeout=15)
        with client.place("m", "r"):
            time.sleep(60)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    eventually(lambda: router.held)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in stderr
    eventually(lambda: not router.held)
    assert router.requests("Release")[0].outcome == CANCELLED


@pytest.mark.parametrize("closing", ["client", "contextlib.nullcontext()"])
@pytest.mark.parametrize(
    "place", ["RouterClient._hold", "Thread.start", "_Placing.__exit__", "Renewals.let_go"]
)
def test_an_interrupt_that_ends_the_program_releases(router, place, closing):
    """Python keeps the frames of what ended a program, and with them the block, to its last end."""
    program = textwrap.dedent(f"""
        import contextlib, sys, eldr_client
        client = eldr_client.RouterClient({router.target!r}, timeout=15)
        def interrupt(frame, event, _):
            if event == "call" and frame.f_code.co_qualname == {place!r}:
                sys.setprofile(None)
                raise KeyboardInterrupt
        with {closing}:
            sys.setprofile(interrupt)
            with client.place("m", "r"):
                pass
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert "KeyboardInterrupt" in ended.stderr
    eventually(lambda: not router.held)
    assert router.requests("Release")[0].outcome == CANCELLED


def interrupted_everywhere(call):
    """Call `call(n)` for n = 0, 1, ..., interrupted at the n-th point of the client; yield each n.

    Python looks for signals when a function begins and when one written in C returns.
    """
    for point in itertools.count():
        left = [point]

        def interrupt(frame, event, _, left=left):
            code = frame.f_code
            if code.co_name == "__del__" or "eldr_client" not in code.co_filename:
                return  # Python swallows what a finalizer raises
            if event in ("call", "c_return"):
                left[0] -= 1
                if left[0] == -1:
                    raise KeyboardInterrupt

        try:
            sys.setprofile(interrupt)
            call(point)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        yield point
        if left[0] >= 0:
            break
    assert point > 50


def test_an_interrupt_at_any_point_of_the_client_releases(router):
    with RouterClient(router.target, timeout=5) as client:

        def place(point):
            with client.place("m", f"r{point}"):
                pass

        for _ in interrupted_everywhere(place):
            client.renew("m", [])  # any call begins what an interrupt kept from beginning
            eventually(lambda: not router.held)


def test_an_interrupt_at_any_point_leaves_the_stream_usable(router):
    with RouterClient(router.target, timeout=5) as client:
        placements = []

        def stream(point):
            placements.append(client.stream_signature("m", f"r{point}", None, route={}))

        for point in interrupted_everywhere(stream):
            after = client.stream_signature("m", f"after{point}", None, route={})
            assert after.lease_id == f"lease-after{point}-0"  # not the interrupted one's answer
            client.release("m", f"after{point}")
            eventually(lambda: set(router.held.values()) == {p.lease_id for p in placements})
        assert len(placements) == 1


def test_a_release_that_finds_no_router_is_said_later(router):
    with RouterClient(router.target, timeout=5) as client:
        with client.place("m", "r"):
            router.stop()
        assert client.release("m", "other") is None
        router.hold.clear()
        router.start()
        eventually(lambda: len(router.requests("Release")) == 2)
    assert not router.held


async def test_closing_gives_up_on_a_router_that_takes_no_release(router, caplog):
    router.script["Release"] = router.script["Route"] = router.hang
    sync = RouterClient(router.target, timeout=0.1)
    client = aio.RouterClient(router.target, timeout=0.1)
    assert sync.release("m", "sync") is None
    assert await client.release("m", "aio") is None
    sync.close()
    await client.close()
    assert caplog.text.count("1 releases are left to expire") == 2
