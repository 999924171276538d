"""The proxy's client: sends a block's requests when they are due, and times what it sees."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from benchmarks.demo_vllm.fleet import Fleet
from benchmarks.demo_vllm.statistics import Segment
from benchmarks.demo_vllm.workload import Ask

SAMPLE_SECONDS = 0.1
REQUEST_SECONDS = 120.0
SETTLE_SECONDS = 10.0
FEWEST_TOKENS = 16
"""Of an answer that is cut off, for its TPOT to count."""

_ROUTE = re.compile(r"^eldr_proxy_route_seconds_(sum|count) (\S+)", re.M)
_REASON = re.compile(r'^eldr_proxy_placements_total\{reason="(\w+)"\} (\S+)', re.M)


class Client:
    """Drives one proxy, and watches the fleet behind it meanwhile."""

    def __init__(self, proxy: str, model: str, fleet: Fleet) -> None:
        self._proxy = proxy
        self._model = model
        self._fleet = fleet

    def drive(self, asks: Sequence[Ask], seconds: float) -> Segment:
        """The requests of a block, until nothing is booked any more.

        What is being written after so many seconds is cut off: draining would be the larger part
        of a short block, with batches that grow ever smaller.
        """
        return asyncio.run(self._drive(asks, seconds))

    async def _drive(self, asks: Sequence[Ask], seconds: float) -> Segment:
        segment = Segment()
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            before = await self._proxy_counts(session)
            idle, begun = _idle_seconds(), time.perf_counter()
            end = begun + seconds
            watch = asyncio.create_task(self._watch(segment, end))
            try:
                await asyncio.gather(
                    *(self._ask(session, ask, begun, end, segment) for ask in asks)
                )
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
        return segment

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        ask: Ask,
        begun: float,
        end: float,
        segment: Segment,
    ) -> None:
        await asyncio.sleep(begun + ask.at - time.perf_counter())
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
        sent = time.perf_counter()
        first = last = 0.0
        tokens = 0
        try:
            async with session.post(self._proxy + "/v1/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    if not line.startswith(b"data: {"):
                        continue
                    for choice in json.loads(line[6:]).get("choices", ()):
                        tokens += len(choice.get("token_ids") or ())
                        last = time.perf_counter()
                        first = first or last
                    if last > end:
                        break  # which closes the connection
        except (aiohttp.ClientError, TimeoutError):
            segment.failed += 1
            return
        if tokens != ask.max_tokens and last <= end:
            segment.failed += 1
            return
        segment.answered += 1
        segment.ttft.append(first - sent)
        if tokens >= min(FEWEST_TOKENS, ask.max_tokens):
            segment.tpot.append((last - first) / (tokens - 1))

    async def _watch(self, segment: Segment, until: float) -> None:
        """Loads, while requests arrive, and every new report of every worker."""
        seen: dict[str, float] = {}
        while True:
            workers = await asyncio.to_thread(self._fleet.workers)
            booked = [worker.booked_sequences for worker in workers]
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
                # The report is a mean over its tokens; so many steps fit between two reports.
                tokens = worker.batch_size * passed / step
                total, weight = segment.experts
                segment.experts = total + worker.active_experts * tokens, weight + tokens
                total, weight = segment.steps
                segment.steps = total + step * tokens, weight + tokens
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _settle(self) -> int:
        """The engines release by themselves; the next policy shall find nothing booked."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (booked := await asyncio.to_thread(self._fleet.booked)) and (
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
    """Of all processors together, since the machine started."""
    return sum(map(float, Path("/proc/stat").read_text().split()[4:6])) / 100


def _processors() -> int:
    return sum(line.startswith("cpu") for line in Path("/proc/stat").read_text().splitlines()) - 1
