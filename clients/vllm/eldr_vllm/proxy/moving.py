"""The moves of running requests that the daemon proposes, given to the legs they are for."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from eldr_client import EldrError
from eldr_client.aio import RouterClient

from eldr_vllm.proxy.fleet import Fleet
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.movable import can_go_on
from eldr_vllm.proxy.written import Written

logger = logging.getLogger("eldr_proxy")

RETRY_SECONDS = 10.0  # until a refused watch is tried again


class Moves:
    """Watches each model that has had a placement."""

    def __init__(self, client: RouterClient, fleet: Fleet) -> None:
        self._client, self._fleet = client, fleet
        self._written: dict[str, Written] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._is_on = True

    @contextmanager
    def follow(self, leg: Leg) -> Iterator[None]:
        """Within the block, a leg that can go on elsewhere learns when it should."""
        said = leg.path, leg.body, leg.output_limit
        may = self._is_on and not leg.why_whole and self._fleet.can_continue(leg.model)
        if not may or not can_go_on(*said):
            yield
            return
        leg.written = self._written[leg.request_id] = Written(*said)
        try:
            yield
        finally:
            del self._written[leg.request_id]

    def watch(self, model: str) -> None:
        """Begin to, if it is not watched. The daemon has placed a request of the model."""
        if self._is_on and model not in self._watches:
            self._watches[model] = asyncio.create_task(self._watch(model))

    async def close(self) -> None:
        """Watch no more."""
        for task in self._watches.values():
            task.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _watch(self, model: str) -> None:
        while True:
            try:
                async for move in self._client.watch_moves(model):
                    if written := self._written.get(move.request_id):
                        written.proposed = move
            except EldrError as error:
                if error.code is grpc.StatusCode.UNIMPLEMENTED:
                    if self._is_on:
                        logger.warning("the daemon proposes no moves; it is older than that")
                    self._is_on = False
                    return
                logger.warning("the moves of %a are not watched: %s", model, error)
            await asyncio.sleep(RETRY_SECONDS)
