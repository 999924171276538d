"""A proxy that moves what it is told to, before scripted engines that write text."""

import asyncio
import json
from contextlib import asynccontextmanager

from eldr_client import Move, WorkerTarget
from scripted_engine import MODEL, Rig, eventually
from test_proxy_daemon import routed_rig
from text_engine import TextEngine

GREEDY = {"model": MODEL, "prompt": "Hello", "max_tokens": 60, "temperature": 0, "stream": True}


class Proposals:
    """What the daemon is made to propose, to every watcher."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Move] = asyncio.Queue()

    async def watch(self):
        while True:
            yield await self._queue.get()

    def propose(self, rig: Rig, worker: int, request: int = -1, attempt: int = 0) -> None:
        """Where a request that has been prefilled should go, a number of a decode engine."""
        request_id = rig.prefill[0].decodes[request]["kv_transfer_params"]["eldr"]["request_id"]
        target = WorkerTarget(f"DECODE-{worker}", rig.decode[worker].url, 0)
        self._queue.put_nowait(Move(MODEL, request_id, attempt, "", target, 1.0))


@asynccontextmanager
async def moving_rig(daemon, **settings):
    async with routed_rig(daemon, kind=TextEngine, moves=True, **settings) as rig:
        for engine in rig.decode:
            engine.pause = 0.02
        yield rig


def ask(rig: Rig, **options) -> asyncio.Task:
    """The events of a stream, of a chat if there are messages."""
    is_chat = "messages" in options
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    asked = {**GREEDY, **options}
    if is_chat:
        del asked["prompt"]

    async def answer():
        async with rig.session.post(rig.url + path, json=asked) as said:
            *events, done, _ = (await said.text()).split("\n\n")
            assert (said.status, done) == (200, "data: [DONE]")
            return [json.loads(event.removeprefix("data: ")) for event in events]

    return asyncio.create_task(answer())


def running(rig: Rig) -> list[int]:
    return [number for number, engine in enumerate(rig.decode) if engine.running]


async def writes(rig: Rig) -> int:
    """The only engine that decodes, and has for some tokens."""
    await eventually(lambda: len(running(rig)) == 1)
    await asyncio.sleep(0.3)
    return running(rig)[0]


async def moves(rig: Rig, outcome: str) -> float:
    return await rig.metric(f'eldr_proxy_moves_total{{outcome="{outcome}"}}')
