"""Bookings at the daemon: kept alive while held, and always released."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

from eldr_client import EldrError, Placement, ReleaseOutcome, errors
from eldr_client.aio import RouterClient

from eldr_vllm.proxy.fleet import Engine

logger = logging.getLogger("eldr_proxy")

RENEW_SECONDS = 60.0


@dataclass(slots=True, eq=False, kw_only=True)
class Booking:
    """A leg's booking for one attempt. Fields after the lease go into its release."""

    engine: Engine
    model: str
    request_id: str
    attempt: int
    # Empty if the daemon has booked nothing.
    lease_id: str = ""
    # The engine's name at the daemon, if a placement gave one.
    placed_on: str = ""
    # The prefill engine whose KV it fetches, if any.
    kv_from: str = ""
    outcome: ReleaseOutcome = ReleaseOutcome.COMPLETED
    output_tokens: int = 0
    decode_duration: float | None = None

    @classmethod
    def of(
        cls, placement: Placement, engine: Engine, model: str, request_id: str, attempt: int
    ) -> Self:
        """The booking of a placement by the daemon."""
        return cls(
            engine=engine,
            model=model,
            request_id=request_id,
            attempt=attempt,
            lease_id=placement.lease_id,
            placed_on=placement.worker_id,
        )

    @property
    def worker_ids(self) -> set[str]:
        """The engine's names; one from the configuration is known by its URL."""
        return {self.engine.worker_id, self.placed_on} - {""}


class Bookings:
    """All bookings that this proxy holds; without a daemon (`client`) there is nothing to do."""

    def __init__(self, client: RouterClient | None) -> None:
        self._client = client
        self._held: set[Booking] = set()
        self._releases: set[asyncio.Task[None]] = set()

    @contextmanager
    def hold(self, booking: Booking) -> Iterator[None]:
        """Keep it alive during the block, and release it with its outcome."""
        self._held.add(booking)
        try:
            yield
        except Exception:  # only noted here, and raised again
            booking.outcome = ReleaseOutcome.FAILED
            raise
        except BaseException:  # the caller has gone
            booking.outcome = ReleaseOutcome.CANCELLED
            raise
        finally:
            self._held.discard(booking)
            if booking.lease_id:
                self.release(booking)

    def release(self, booking: Booking) -> None:
        """End it in its own task: no request waits for it, and no cancellation stops it."""
        if self._client is not None:
            task = asyncio.create_task(self._say(self._client, booking))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def renew(self) -> None:
        """Keep the bookings of long decodes alive, without end."""
        assert self._client is not None
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            leases = defaultdict(list)
            for held in self._held:
                if held.lease_id:
                    leases[held.model].append((held.request_id, held.attempt))
            for model, of_model in leases.items():
                try:
                    await self._client.renew(model, of_model)
                except EldrError as error:
                    logger.warning("bookings are not renewed: %s", error)

    async def close(self) -> None:
        """Wait for the releases in flight."""
        if self._releases:
            await asyncio.wait(self._releases)

    @staticmethod
    async def _say(client: RouterClient, booking: Booking) -> None:
        """Release without the lease, which may come from a prefill engine, and be wrong.

        The request's id is this proxy's own, so this cannot end another caller's booking.
        """
        release = partial(
            client.release,
            booking.model,
            booking.request_id,
            attempt=booking.attempt,
            outcome=booking.outcome,
        )
        try:
            try:
                await release(
                    output_tokens=booking.output_tokens, decode_duration=booking.decode_duration
                )
            except (TypeError, ValueError, OverflowError, errors.InvalidArgumentError) as error:
                # The booking must end, even if its fields are invalid.
                logger.warning("%s is released without statistics: %s", booking.request_id, error)
                await release()
        except EldrError as error:
            logger.info("the release of %s was refused: %s", booking.request_id, error)
