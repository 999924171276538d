"""The daemon dies under load: all is served, hardly later, and soon placed by it again."""

import asyncio
import base64
import signal
import time
from bisect import bisect
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from daemon import Daemon, running_daemon
from eldr_client import WorkerSession
from eldr_vllm.proxy.routing import Routing
from scripted_engine import MODEL, Rig, running_rig
from test_proxy_daemon import TOP_K, counts_of, fit, health

ADDED = 0.015  # seconds that the router's death may add to a request
BACK = 2.0  # seconds until a router that serves again is asked again
LOCALITY = 'eldr_proxy_placements_total{reason="LOCALITY_BAND"}'
FALLBACK = 'eldr_proxy_placements_total{reason="CLIENT_FALLBACK"}'
LEAST_LOADED = 'eldr_proxy_placements_total{reason="LEAST_LOADED_NO_PARTITION"}'


class Stopwatch:
    """Times each placement, less what this event loop was late at the same time.

    Proxy, engines and clients share one loop and busy cores here. How late its timers fire is no
    part of the promise.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._placed: list[tuple[float, float]] = []
        self._late: list[tuple[float, float]] = []  # when, by how much
        book = Routing._book

        async def timed(*arguments):
            start = time.perf_counter()
            try:
                return await book(*arguments)
            finally:
                self._placed.append((start, time.perf_counter()))

        monkeypatch.setattr(Routing, "_book", timed)

    async def watch_timers(self) -> None:
        """For ever."""
        while True:
            due = time.perf_counter() + 0.002
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            self._late.append((now, now - due))

    def longest(self, end: float) -> tuple[float, float]:
        """Seconds of the longest placement among those done by then, and of those after it."""
        own = {True: 0.0, False: 0.0}
        for start, stop in self._placed:
            took = stop - start - self._late_within(start, stop)
            own[stop < end] = max(own[stop < end], took)
        return own[True], own[False]

    def _late_within(self, start: float, end: float) -> float:
        """The timer that was due in the span may have fired just after it."""
        first = bisect(self._late, (start,))
        last = bisect(self._late, (end,)) + 1
        return max((late for _, late in self._late[first:last]), default=0.0)


class Load:
    """Requests, a few at once, until it is stopped."""

    def __init__(self, rig: Rig) -> None:
        self.statuses: list[int] = []
        self._rig = rig
        self._stopped = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while not self._stopped:
                for _ in range(4):
                    group.create_task(self._ask())
                await asyncio.sleep(0.05)

    async def _ask(self) -> None:
        answer, _ = await self._rig.post(prompt=str(len(self.statuses)))
        self.statuses.append(answer.status)

    async def stop(self) -> None:
        self._stopped = True
        await self._task


@asynccontextmanager
async def registered_rig(daemon: Daemon, **settings) -> AsyncIterator[Rig]:
    """The engines keep themselves registered, as the shim does."""
    async with running_rig(static=False, router=daemon.grpc, **settings) as rig:
        with ExitStack() as stack:
            for role, engines in (("PREFILL", rig.prefill), ("DECODE", rig.decode)):
                for engine in engines:
                    engine.pause = 0.002
                    session = WorkerSession(
                        engine.url.rpartition(":")[2],
                        MODEL,
                        engine.url,
                        role=role,
                        geometry=(2, 8, TOP_K),
                        time_to_live=15,
                        target=daemon.grpc,
                    )
                    stack.enter_context(session)
            deadline = time.monotonic() + 15
            while (await health(rig))["workers"] != {"prefill": 1, "decode": 2}:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            yield rig


async def grows(rig: Rig, metric: str) -> float:
    """Seconds until it does."""
    start, before = time.monotonic(), await rig.metric(metric)
    while await rig.metric(metric) == before:
        assert time.monotonic() < start + 30
        await asyncio.sleep(0.01)
    return time.monotonic() - start


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_every_request_is_served_hardly_later(monkeypatch, how):
    """Gone, its connections with it; and there, but silent, so that only the deadline helps."""
    with running_daemon() as daemon:
        async with registered_rig(daemon, route_timeout=0.010) as rig:
            await rig.post()  # connections are made
            stopwatch = Stopwatch(monkeypatch)
            watching = asyncio.create_task(stopwatch.watch_timers())
            load = Load(rig)
            await asyncio.sleep(1)
            death = time.perf_counter()
            daemon.process.send_signal(how)
            await asyncio.sleep(2)
            await load.stop()
            watching.cancel()
            daemon.process.kill()
            assert set(load.statuses) == {200}
            assert await rig.metric(FALLBACK) > len(load.statuses) / 2
            before, after = stopwatch.longest(death)
            print(f"{how.name}: {before * 1e3:.1f} ms at most before, {after * 1e3:.1f} ms after")
            assert after < before + ADDED
            assert not rig.pinned


@pytest.mark.parametrize("keeps_state", [True, False])
async def test_placements_are_back_soon_after_the_daemon(tmp_path, keeps_state):
    """By locality where it kept its state; by load where engines and partition are forgotten."""
    state = str(tmp_path) if keeps_state else ":memory:"
    with running_daemon("--state", state) as first, ExitStack() as later:
        async with registered_rig(first) as rig:
            fit(first)
            counts = counts_of(0).to_proto().SerializeToString()
            rig.prefill[0].eldr = {"counts": base64.b64encode(counts).decode()}
            load = Load(rig)
            await grows(rig, LOCALITY)
            first.process.kill()
            first.process.wait()
            await grows(rig, FALLBACK)
            await asyncio.sleep(2)  # until every pause between two tries has its full length
            again = running_daemon("--listen", first.grpc, "--state", state)
            await asyncio.to_thread(later.enter_context, again)
            seconds = await grows(rig, LOCALITY if keeps_state else LEAST_LOADED)
            await load.stop()
            print(f"keeps its state: {keeps_state}, back after {seconds:.2f} s")
            assert set(load.statuses) == {200}
            assert seconds < BACK
