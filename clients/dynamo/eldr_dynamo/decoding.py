"""The decode of one request: placed by the daemon, or by Dynamo when the daemon places nothing."""

import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from dynamo.runtime import Client, Context
from eldr_client import EldrError, HeldPlacement, ReleaseOutcome, errors
from eldr_client.aio import RouterClient

from eldr_dynamo.faults import is_away, named
from eldr_dynamo.fleet import Fleet, Target
from eldr_dynamo.request import (
    Request,
    handoff,
    output_limit,
    sequences,
    with_booking,
    without_eldr,
)
from eldr_dynamo.tokens import num_tokens, with_listed_tokens

logger = logging.getLogger("eldr_dynamo")

Chunk = dict[str, Any]


class _WorkerFailedError(Exception):
    """A worker was away before its first token: another worker may serve the request."""


class Decoding:
    """Serves as one decode worker of a model, and forwards to the workers behind it.

    Parameters
    ----------
    daemon : RouterClient
    fleet : Fleet
        Which of the daemon's workers is which instance.
    instances : Client
        Client of the decode workers' endpoint; its router mode chooses when the daemon does not.
    model : str
        The model's name at the daemon.
    attempts : int
        Placements to try before Dynamo chooses.
    """

    def __init__(
        self, daemon: RouterClient, fleet: Fleet, instances: Client, model: str, attempts: int = 3
    ) -> None:
        self._daemon = daemon
        self._fleet = fleet
        self._instances = instances
        self._model = model
        self._attempts = attempts

    async def generate(self, request: Request, context: Context) -> AsyncIterator[Chunk]:
        """Stream what the chosen worker answers, unchanged."""
        request = with_listed_tokens(request)
        said = handoff(request)
        request_id, counts = said.request_id or context.id(), said.counts
        failed: set[str] = set()
        # A booking that the prefill engine made is superseded by one of a higher attempt.
        first = int(said.is_placed)
        for attempt in range(first, first + self._attempts):
            candidates = self._fleet.candidates()
            for name in failed:
                candidates.pop(name, None)
            if not candidates:
                break
            try:
                async with self._daemon.place(
                    self._model,
                    request_id,
                    counts,
                    attempt=attempt,
                    num_sequences=sequences(request),
                    prompt_tokens=num_tokens(request.get("token_ids")),
                    expected_output_tokens=output_limit(request),
                    candidate_workers=sorted(candidates),
                ) as placement:
                    if placement.is_fallback:
                        break
                    target = candidates[placement.worker_id]
                    booked = with_booking(request, request_id, attempt, placement.lease_id)
                    async for chunk in self._decode(booked, context, target, placement):
                        yield chunk
                    return
            except errors.FailedPreconditionError as error:
                # The request has been here before, as after a migration: try the next attempt.
                logger.info("%s: %s", request_id, error)
            except errors.InvalidArgumentError as error:  # counts that do not fit the model, say
                logger.warning("%s: the daemon rejected the request: %s", request_id, error)
                if counts is None:
                    break
                counts = None
            except errors.ResourceExhaustedError:  # all are full by ELDR's numbers
                break
            except EldrError as error:
                logger.warning("%s: not placed by the daemon: %s", request_id, error)
                self._fleet.doubt()
                break
            except _WorkerFailedError as error:
                logger.warning("%s: %s failed: %s", request_id, placement.worker_id, error)
                failed.add(placement.worker_id)
                self._fleet.rest(placement.worker_id)
                if context.is_stopped():
                    return
        async for chunk in self._decode_unplaced(without_eldr(request), context):
            yield chunk

    async def _decode_unplaced(self, request: Request, context: Context) -> AsyncIterator[Chunk]:
        for left in reversed(range(self._attempts)):
            began = False
            try:
                stream = await self._instances.generate(request, annotated=False, context=context)
                async for chunk in stream:
                    began = True
                    yield chunk
                return
            except Exception as error:
                if began or not left or not is_away(error):
                    raise named(error) from error

    async def _decode(
        self, request: Request, context: Context, target: Target, placement: HeldPlacement
    ) -> AsyncIterator[Chunk]:
        if target.dp_rank is not None:
            routing = {**(request.get("routing") or {}), "dp_rank": target.dp_rank}
            request = {**request, "routing": routing}
        began: float | None = None
        finish: str | None = None
        try:
            stream = await self._instances.direct(
                request, target.instance, annotated=False, context=context
            )
            async for chunk in stream:
                if began is None:
                    began = time.monotonic()
                placement.output_tokens += num_tokens(chunk.get("token_ids"))
                placement.decode_duration = time.monotonic() - began
                finish = chunk.get("finish_reason") or finish
                yield chunk
        except Exception as error:
            if began is None and is_away(error):
                raise _WorkerFailedError(error) from error
            raise named(error) from error
        if finish is None and context.is_stopped():
            placement.outcome = ReleaseOutcome.CANCELLED
        elif str(finish).startswith("error"):
            placement.outcome = ReleaseOutcome.FAILED
