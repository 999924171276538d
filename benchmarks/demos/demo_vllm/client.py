"""The proxy's client: keeps a number of requests in flight, and times their answers."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.demos.demo_vllm.fleet import Fleet, sequences
from benchmarks.demos.demo_vllm.statistics import Segment
from benchmarks.demos.demo_vllm.workload import Ask

SAMPLE_SECONDS = 0.1
REQUEST_SECONDS = 120.0
SETTLE_SECONDS = 10.0
FILLING_SECONDS = 2.5
"""At the start of a block, not measured: carried requests are prefilled again."""

PAUSE_SECONDS = 0.1
"""After a request that failed."""

FEWEST_TOKENS = 8
"""Of an answer within a block for its TPOT to count."""

_ROUTE = re.compile(r"^eldr_proxy_route_seconds_(sum|count) (\S+)", re.M)
_REASON = re.compile(r'^eldr_proxy_placements_total\{reason="(\w+)"\} (\S+)', re.M)


@dataclass(slots=True)
class _Answer:
    """What has arrived of an answer, and when."""

    sent: float
    events: list[tuple[float, int]] = field(default_factory=list)
    """Arrival and number of tokens."""
    failed: bool = False

    def take(self, event: dict[str, Any]) -> None:
        for choice in event.get("choices", ()):
            if count := len(choice.get("token_ids") or ()):
                self.events.append((time.perf_counter(), count))

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.events)

    def since(self, begin: float) -> tuple[float, int]:
        """Seconds from the first event after `begin` to the last, and the tokens they took."""
        late = [event for event in self.events if event[0] >= begin]
        if not late:
            return 0.0, 0
        return late[-1][0] - late[0][0], sum(count for _, count in late[1:])


class Client:
    """Drives one proxy while watching the fleet behind it."""

    def __init__(self, proxy: str, model: str, fleet: Fleet) -> None:
        self._proxy = proxy
        self._model = model
        self._fleet = fleet

    def drive(
        self, carried: Sequence[Ask], coming: Iterator[Ask], seconds: float, peer: str | None = None
    ) -> tuple[Segment, list[Ask]]:
        """Keep as many in flight as are carried into a block; returns those left at its end.

        When one ends, the next of `coming` follows. Answers in progress at the block's end are cut
        off: draining, with ever smaller batches, would take most of a short block. `peer` is the
        URL of another router, called instead of the proxy.
        """
        return asyncio.run(self._drive(carried, coming, seconds, peer or self._proxy))

    async def _drive(
        self, carried: Sequence[Ask], coming: Iterator[Ask], seconds: float, front: str
    ) -> tuple[Segment, list[Ask]]:
        segment = Segment(since=time.time(), until=time.time() + seconds)
        asked: list[tuple[Ask, _Answer]] = []

        async def one_after_the_other(ask: Ask) -> None:
            while time.perf_counter() < end:
                answer = await self._ask(session, front, ask, end)
                asked.append((ask, answer))
                ask = next(coming)
                if answer.failed:
                    await asyncio.sleep(PAUSE_SECONDS)

        async with self._session() as session:
            before = await self._proxy_counts(session)
            idle, begun = _idle_seconds(), time.perf_counter()
            end = begun + seconds
            watch = asyncio.create_task(self._watch(segment, begun + FILLING_SECONDS, end))
            try:
                await asyncio.gather(*map(one_after_the_other, carried))
                passed = time.perf_counter() - begun
                segment.processors = 1 - (_idle_seconds() - idle) / passed / _processors()
                segment.left = await self._settle()
            finally:
                watch.cancel()
            after = await self._proxy_counts(session)
        segment.route = (
            after["sum"] - before["sum"],
            after["count"] - before["count"],
        )
        segment.reasons = {
            reason: round(count - before[reason])
            for reason, count in after.items()
            if reason.isupper() and count > before[reason]
        }
        left, made = [], 0
        measured = begun + FILLING_SECONDS
        for ask, answer in asked:
            tokens = sum(count for at, count in answer.events if at >= measured)
            made += tokens
            if answer.failed:
                segment.failed += 1
                continue
            segment.answered += bool(answer.events)
            segment.unanswered += not answer.events
            if answer.events and not ask.carried:
                segment.ttft.append(answer.events[0][0] - answer.sent)
            passed, tokens = answer.since(measured)
            if tokens >= FEWEST_TOKENS:
                segment.tpot.append(passed / tokens)
            if rest := ask.max_tokens - answer.tokens:
                left.append(replace(ask, max_tokens=max(rest, 2), carried=True))
        segment.tokens = made, end - measured
        while len(left) < len(carried):  # replacing the failed
            left.append(next(coming))
        return segment, left

    @asynccontextmanager
    async def _session(self):
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            yield session

    async def _ask(
        self, session: aiohttp.ClientSession, front: str, ask: Ask, end: float
    ) -> "_Answer":
        body = {
            "model": self._model,
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": 0.8,
            "seed": ask.seed,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,  # an event can hold several tokens, and bytes without text
        }
        answer = _Answer(sent=time.perf_counter())
        try:
            async with (
                asyncio.timeout(end - answer.sent),  # which closes the connection
                session.post(front + "/v1/completions", json=body) as response,
            ):
                response.raise_for_status()
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        answer.take(json.loads(line[6:]))
        except TimeoutError:
            return answer
        except aiohttp.ClientError:
            answer.failed = True
        answer.failed |= answer.tokens != ask.max_tokens
        return answer

    async def _watch(self, segment: Segment, begin: float, until: float) -> None:
        """Collect loads, and every new report of every worker."""
        await asyncio.sleep(begin - time.perf_counter())
        seen: dict[str, float] = {}
        while True:
            workers = await asyncio.to_thread(self._fleet.workers)
            booked = [sequences(worker) for worker in workers]
            if any(booked) and time.perf_counter() < until:
                total, weight = segment.imbalance
                segment.imbalance = total + max(booked) * len(booked) / sum(booked), weight + 1
            for worker in workers:
                reported = worker.report_time.ToNanoseconds() / 1e9
                passed = reported - seen.setdefault(worker.worker_id, reported)
                step = worker.step_time.ToNanoseconds() / 1e9
                if not passed or not step:
                    continue
                seen[worker.worker_id] = reported
                # A report is a mean over its tokens: batch size x steps since the previous report.
                tokens = worker.batch_size * passed / step
                total, weight = segment.experts
                segment.experts = total + worker.active_experts * tokens, weight + tokens
                total, weight = segment.steps
                segment.steps = total + step * tokens, weight + tokens
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _settle(self) -> int:
        """Wait until engines have released everything, so that the next policy starts empty."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (booked := await asyncio.to_thread(self._fleet.sequences)) and (
            time.monotonic() < deadline
        ):
            await asyncio.sleep(0.05)
        return booked

    async def _proxy_counts(self, session: aiohttp.ClientSession) -> Counter[str]:
        async with session.get(self._proxy + "/metrics") as answer:
            text = await answer.text()
        found: Counter[str] = Counter()
        for name, value in [*_ROUTE.findall(text), *_REASON.findall(text)]:
            found[name] = float(value)  # type: ignore[assignment]
        return found


def _idle_seconds() -> float:
    """Idle seconds of all processors together since the machine started."""
    return sum(map(float, Path("/proc/stat").read_text().split()[4:6])) / 100


def _processors() -> int:
    return sum(line.startswith("cpu") for line in Path("/proc/stat").read_text().splitlines()) - 1
