"""Writes bookings to disk before their answers leave: many at a time, in a separate thread.

The event loop decides and books, and queues what must be kept. While the thread commits, the next
group gathers. An answer waits only for the commit that holds its booking.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

import structlog

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import REMEMBER_SECONDS, Ended
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.journal import Journal
from eldr_service.routing.restore import restore_bookings, restore_ends
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.bookings import BookingStore, End, Living
from eldr_service.stores.records import StoreError

RETRY_SECONDS = 1.0
FORGET_SECONDS = 10.0
STALL_SECONDS = 2.0
"""After this long a disk that does not answer counts as failed: answers cannot wait for it."""
MOST_QUEUED = 1_000_000
GATHER_SECONDS = 0.002
GATHER_TURNS = 4
"""Loop turns, microseconds each, without another change that complete a group."""
STEP = 500
"""Bookings processed in one step of the loop, about half a millisecond."""

log = structlog.get_logger("eldr")


class _Group(NamedTuple):
    """What one transaction writes."""

    living: list[Living]
    ends: list[End]
    waiting: list[asyncio.Future[None]]
    afresh: bool


class Durability(Journal):
    """Stores a router's bookings and their ends.

    If writing fails, decisions go on and `is_safe` is false: what happens then would not survive a
    crash. Everything is rewritten as soon as that is possible.

    Parameters
    ----------
    store : BookingStore
    tell : callable (bool)
        Told after each attempt whether bookings are written.

    Attributes
    ----------
    is_safe : bool
        Whether what was acknowledged is on disk.
    trouble : str
        Why it is not.
    """

    def __init__(self, store: BookingStore, tell: Callable[[bool], None]) -> None:
        self.is_safe = True
        self.trouble = ""
        self._tell = tell
        self._store = store
        self._living: list[Living] = []
        self._ends: list[End] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._in_hand: list[asyncio.Future[None]] = []  # answers that wait for the thread
        self._busy = self._due = False  # the thread is writing; a flush is scheduled
        self._listens = False  # whether events are to be stored
        self._rewriting: asyncio.Task[None] | None = None
        self._next_try = self._next_forget = self._busy_since = 0.0
        self._number = 0
        self._groups: SimpleQueue[_Group | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="bookings", daemon=True)

    def start(self, router: Router, workers: Workers, now: float) -> int:
        """Take in what an earlier run left, and store what happens from now on.

        Returns the number of living bookings.
        """
        self._router, self._workers = router, workers
        self._loop = asyncio.get_running_loop()
        clock = _clock()
        restore_ends(router, self._store.ends(now + clock), clock)
        ended = restore_bookings(router, self._store.living(), clock, now)
        self._number = self._store.last_number()
        self._listens = True
        self._tell(True)
        self._thread.start()
        for model, booking in ended:
            self.ended(model, booking, Ended.WORKER_GONE, now)
        return sum(len(model.bookings) for model in router.models.values())

    def written(self) -> asyncio.Future[None] | None:
        """What to wait for before an answer leaves; None for nothing."""
        if not self.is_safe or not (self._living or self._ends or self._busy):
            return None
        future = self._loop.create_future()
        self._waiting.append(future)
        self._schedule()
        return future

    def tick(self, now: float) -> None:
        """Retry what has failed, and give up on what hangs."""
        queued = len(self._living) + len(self._ends)
        if self.is_safe and self._busy and now - self._busy_since > STALL_SECONDS:
            self._failed(StoreError(f"a write has taken {now - self._busy_since:.0f} s so far"))
        elif self.is_safe and queued > MOST_QUEUED:
            self._failed(StoreError(f"{queued} changes wait to be written"))
        if not self.is_safe and self._rewriting is None and now >= self._next_try:
            self._rewriting = asyncio.create_task(self._rewrite())

    async def close(self) -> None:
        """Write what is pending, and stop."""
        if self._rewriting:
            await self._rewriting
        while written := self.written():
            await written
        self._groups.put(None)
        await asyncio.to_thread(self._thread.join)

    # Journal

    def placed(
        self, model: str, call: RouteCall, known: Known, booking: Booking, now: float
    ) -> None:
        """A request was decided and booked."""
        self._number += 1
        booking.number = self._number
        self.renewed(model, booking)

    def completed(self, model: str, booking: Booking, counts: Counts) -> None:
        """A booking has its complete signature."""
        self.renewed(model, booking)

    def running(self, model: str, booking: Booking) -> None:
        """A worker has reported a booking for the first time."""
        self.renewed(model, booking)

    def renewed(self, model: str, booking: Booking) -> None:
        """A booking is to be stored as it is."""
        if self._listens:
            life = self._workers.life(self._router.models[model], booking.row)
            # The thread reads the booking when it writes: later is more accurate.
            self._living.append((model, life, booking))
            self._schedule()

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """A booking ended."""
        self._end(booking.number, model, *booking.key, how, booking.worker_id, now)

    def remembered(self, model: str, request_id: str, attempt: int, how: Ended, now: float) -> None:
        """The end of an attempt without a booking is remembered."""
        self._end(0, model, request_id, attempt, how, "", now)

    def _end(
        self, number: int, model: str, request_id: str, attempt: int, how: Ended, worker_id: str,
        now: float,
    ) -> None:  # fmt: skip
        if self._listens:
            until = now + REMEMBER_SECONDS
            end = number, model, request_id, attempt, how.name, worker_id, until
            self._ends.append(End._make(end))
            self._schedule()

    # In the event loop

    def _schedule(self) -> None:
        """Flush when the loop has finished its current work, or soon."""
        if not (self._due or self._busy or self._rewriting):
            self._due = True
            self._gather(0, GATHER_TURNS, self._loop.time() + GATHER_SECONDS)

    def _gather(self, queued: int, turns: int, until: float) -> None:
        """Let the loop turn while more is queued: one commit costs as much for one change."""
        now_queued = len(self._living) + len(self._ends)
        turns = GATHER_TURNS if now_queued > queued else turns - 1
        if turns and self._loop.time() < until:
            self._loop.call_soon(self._gather, now_queued, turns, until)
        else:
            self._flush()

    def _flush(self, afresh: bool = False) -> None:
        self._due = False
        if self._busy or (self._rewriting and not afresh):
            return
        group = _Group(self._living, self._ends, self._waiting, afresh)
        self._living, self._ends, self._waiting = [], [], []
        if group.living or group.ends or afresh:
            self._busy, self._busy_since = True, time.monotonic()
            self._groups.put(group)
            self._in_hand = group.waiting
        else:
            _release(group.waiting)

    def _wrote(self, group: _Group, error: StoreError | None) -> None:
        self._busy = False
        if error:
            self._failed(error)
        elif group.afresh:
            self.is_safe = True
            self._tell(True)
            log.info("bookings are written again")
        _release(group.waiting)
        if group.afresh:
            self._rewriting = None
        if self._living or self._ends or self._waiting:
            self._flush()

    def _failed(self, error: StoreError) -> None:
        """Go on without the disk: no answer waits for it, and nothing accumulates."""
        if self.is_safe:
            log.error(
                "bookings are not written, and would not survive a crash; decisions go on",
                error=str(error),
                retry_seconds=RETRY_SECONDS,
            )
        self.is_safe = self._listens = False
        self.trouble = str(error)
        self._tell(False)
        self._next_try = time.monotonic() + RETRY_SECONDS
        _release(self._in_hand + self._waiting)
        self._living, self._ends, self._waiting, self._in_hand = [], [], [], []

    async def _rewrite(self) -> None:
        """Write all that is alive or remembered, in steps, with what happens meanwhile."""
        self._listens = True
        for model in list(self._router.models.values()):
            for number, booking in enumerate(list(model.bookings)):
                if model.bookings.find(*booking.key, booking.lease_id):
                    if not booking.number:
                        self._number += 1
                        booking.number = self._number
                    self.renewed(model.name, booking)
                if number % STEP == STEP - 1:
                    await asyncio.sleep(0)
            for part in model.bookings.remembered():
                self._ends += [
                    End._make((0, model.name, request_id, attempt, how.name, worker, until))
                    for request_id, attempt, how, worker, until in part
                ]
                await asyncio.sleep(0)
        while self._busy:
            await asyncio.sleep(0.01)
        self._flush(afresh=True)

    # In the thread

    def _write(self) -> None:
        while group := self._groups.get():
            error = None
            try:
                clock = _clock()
                self._store.write(group.living, group.ends, clock, group.afresh)
                if (now := time.monotonic()) >= self._next_forget:
                    self._next_forget = now + FORGET_SECONDS
                    self._store.forget(now + clock)
            except StoreError as failed:
                error = failed
            except Exception as failed:  # else every answer would wait for a dead thread
                log.exception("bookings not written")
                error = StoreError(repr(failed))
            self._loop.call_soon_threadsafe(self._wrote, group, error)


def _release(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():  # its caller may be gone
            future.set_result(None)


def _clock() -> float:
    """Unix time at which the monotonic clock was 0, as currently set."""
    return time.time() - time.monotonic()
