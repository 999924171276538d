"""A router that does not answer costs a deadline once, and next to nothing after that."""

import threading
import time

import grpc
import pytest
from eldr_client import PlacementReason, RouterClient, RouterUnavailableError, aio
from wire import eventually

KNOWN = [("a", "http://a"), ("b", "http://b", 1), ("c", "http://c")]
# Seconds. The machine may be busy, so that these bound the idea rather than the speed.
DEADLINE, SLACK = 0.25, 1.0


def timed(call):
    start = time.monotonic()
    return call(), time.monotonic() - start


@pytest.fixture(params=["dead_target", "black_hole"])
def lost_target(request):
    return request.getfixturevalue(request.param)


def test_round_robin_within_the_deadline(lost_target):
    with RouterClient(lost_target, fallback_workers=KNOWN) as client:
        first, elapsed = timed(lambda: client.route("m", "first"))
        assert elapsed < DEADLINE + SLACK
        chosen = [first]
        open_breaker = []
        for n in range(5):
            placement, elapsed = timed(lambda n=n: client.route("m", f"r{n}"))
            chosen.append(placement)
            open_breaker.append(elapsed)
        assert sorted(open_breaker)[2] < DEADLINE / 10
    assert {p.reason for p in chosen} == {PlacementReason.CLIENT_FALLBACK}
    turns = [p.worker_id for p in chosen]
    assert set(turns[:3]) == {"a", "b", "c"}
    assert turns[:3] == turns[3:]
    assert all({t.worker_id for t in p.targets} == {"a", "b", "c"} for p in chosen)
    assert next(p for p in chosen if p.worker_id == "b").dp_rank == 1


async def test_round_robin_in_asyncio(lost_target):
    async with aio.RouterClient(lost_target, fallback_workers={"m": KNOWN}) as client:
        start = time.monotonic()
        chosen = []
        for n in range(3):
            async with client.place("m", f"r{n}") as placement:
                chosen.append(placement.worker_id)
        assert time.monotonic() - start < DEADLINE + SLACK
        assert set(chosen) == {"a", "b", "c"}
        with pytest.raises(RouterUnavailableError):
            await client.route("another model", "r")


def test_a_request_keeps_its_limits(dead_target):
    with RouterClient(dead_target, fallback_workers=KNOWN) as client:

        def chosen(**limits) -> set[str]:
            return {t.worker_id for t in client.route("m", "r", **limits).targets}

        assert chosen(candidate_workers=["a", "c", "z"]) == {"a", "c"}
        assert chosen(exclude_workers=["a"]) == {"b", "c"}
        assert chosen(pinned_worker="b") == {"b"}
        with pytest.raises(RouterUnavailableError, match="no other worker of m is known"):
            client.route("m", "r", candidate_workers=["z"])


def test_workers_are_learnt_from_placements(router):
    with RouterClient(router.target, timeout=5) as client:
        client.route("m", "r")
        router.stop()
        placement = client.route("m", "s")
        assert placement.is_fallback
        assert {t.worker_id for t in placement.targets} == {"w0", "w1"}


def test_nobody_known_is_an_error(dead_target):
    with RouterClient(dead_target) as client:
        with pytest.raises(RouterUnavailableError) as caught:
            client.route("m", "r")
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(RouterUnavailableError), client.place("m", "r"):
            pytest.fail("entered")
        with pytest.raises(RouterUnavailableError):
            client.register_signature("m", "r", None)


def test_release_after_a_fallback_neither_waits_nor_raises(lost_target):
    with RouterClient(lost_target, fallback_workers=KNOWN) as client:
        client.route("m", "r")
        result, elapsed = timed(lambda: client.release("m", "r"))
        assert result is None
        assert elapsed < SLACK
        _, elapsed = timed(client.close)
        assert elapsed < DEADLINE + SLACK


def test_64_threads_lose_the_router_together(black_hole):
    placed = []
    with RouterClient(black_hole, fallback_workers=KNOWN) as client:
        threads = [
            threading.Thread(target=lambda n=n: placed.append(client.route("m", str(n))))
            for n in range(64)
        ]
        _, elapsed = timed(lambda: [t.start() for t in threads] and [t.join() for t in threads])
    assert elapsed < DEADLINE + 2 * SLACK
    assert [p.is_fallback for p in placed] == [True] * 64


def test_a_hung_router_keeps_the_breaker_open_until_it_answers(router):
    router.script["Route"] = router.hang
    with RouterClient(router.target, fallback_workers=KNOWN) as client:
        assert client.route("m", "r").is_fallback
        eventually(lambda: len(router.probes) >= 2)
        assert client.route("m", "s").is_fallback
        assert [r.request_id for r in router.requests("Route")] == ["r"]
        del router.script["Route"]
        eventually(lambda: not client._conversation.router_is_down)
        assert client.route("m", "t").worker_id == "w0"
    assert all(probe.dry_run for probe in router.probes)


async def test_recovery_after_a_restart_on_the_same_port(router):
    sync = RouterClient(router.target, timeout=3, fallback_workers=KNOWN)
    async with aio.RouterClient(router.target, timeout=3, fallback_workers=KNOWN) as client:
        with sync:
            assert not sync.route("m", "before").is_fallback
            assert not (await client.route("m", "before")).is_fallback
            for turn in range(2):
                router.stop()
                assert sync.route("m", f"down-{turn}").is_fallback
                assert (await client.route("m", f"down-{turn}")).is_fallback
                router.hold.clear()
                router.start()
                end = time.monotonic() + 10
                while (await client.route("m", f"up-{turn}")).is_fallback:
                    assert time.monotonic() < end
                eventually(lambda turn=turn: not sync.route("m", f"up-{turn}").is_fallback)


def test_a_restart_between_two_calls_goes_unnoticed(router):
    with RouterClient(router.target, timeout=5) as client:
        client.route("m", "r")
        router.stop()
        router.hold.clear()
        router.start()
        assert not client.route("m", "s").is_fallback


def test_a_wait_for_the_signature_adds_to_the_deadline(router):
    def slow(request, context):
        time.sleep(0.4)
        return router._Route(request, context)

    router.script["Route"] = slow
    with RouterClient(router.target, fallback_workers=KNOWN) as client:
        assert not client.route("m", "r", wait_for_signature=5.0).is_fallback
        assert client.route("m", "s").is_fallback


@pytest.mark.parametrize(
    ("asked", "left"),
    [((5.0, 5.0), (4.5, 5.0)), ((0.2, 5.0), (0.0, 4.7)), ((0.1, 0.2), (0.0, 0.0))],
)
@pytest.mark.parametrize("method", ["Route", "StreamSignatures"])
def test_another_try_asks_for_what_is_left_of_the_waits(router, method, asked, left):
    def unanswered_once(request, context):
        if len(router.requests(method)) == 1:
            time.sleep(0.5)
            context.abort(grpc.StatusCode.UNAVAILABLE, "it stops")
        return getattr(router, f"_{method}")(request, context)

    router.script[method] = unanswered_once
    fields = {"wait_for_signature": asked[0], "max_wait": asked[1]}
    with RouterClient(router.target, timeout=5.0, fallback_workers=KNOWN) as client:
        if method == "Route":
            assert not client.route("m", "r", **fields).is_fallback
        else:
            assert client.stream_signature("m", "r", None, route=fields).worker_id == "w0"
    requests = router.requests(method)
    routes = requests if method == "Route" else [each.route for each in requests]
    waits = [
        [each.ToTimedelta().total_seconds() for each in (r.wait_for_signature, r.max_wait)]
        for r in routes
    ]
    assert waits[0] == list(asked)
    for found, most in zip(waits[1], left, strict=True):
        assert max(most - 1.0, 0.0) <= found <= most


def test_the_waits_of_a_stream_add_to_the_deadline(router):
    def slow(request, context):
        time.sleep(0.4)
        return router._StreamSignatures(request, context)

    router.script["StreamSignatures"] = slow
    with RouterClient(router.target, timeout=0.25) as client:
        assert client.stream_signature("m", "r", None, route={"max_wait": 5.0}).worker_id == "w0"
        with pytest.raises(RouterUnavailableError):
            client.stream_signature("m", "s", None, route={})
