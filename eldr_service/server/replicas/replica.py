"""One of several daemons that share a state: publishes what it does, applies what others do.

It decides on its own view, in memory, and books at once. A placement is answered after the shared
state has accepted it; if another replica was first, or the view was too old, it is decided again.
If the shared state is unreachable, each replica goes on by its own view, says so, and publishes all
that it did when the state is back.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import structlog

from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.errors import UnavailableError
from eldr_service.routing.restore import restore_bookings
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.replicas.afresh import adopt, fetch_partitions, publish
from eldr_service.server.replicas.commits import Commits
from eldr_service.server.replicas.follower import Follower
from eldr_service.server.replicas.mirror import MirroredStore, read_worker
from eldr_service.server.replicas.telling import Telling
from eldr_service.server.replicas.turns import Turns
from eldr_service.stores.bookings import kept_of
from eldr_service.stores.records import StoreError
from eldr_service.stores.shared import operations
from eldr_service.stores.shared.operations import Change, Operation, Result
from eldr_service.stores.shared.state import SharedState

START_SECONDS = 10.0
"""How long a start waits for the shared state: without it there is nothing to decide on."""
BEAT_SECONDS = 1.0
LEAD_SECONDS = 4.0
OLD_SECONDS = 3.0
"""Without contact to the shared state the view may be this old: then nothing ends for its age."""
WAKE_SECONDS = 1.0
CATCH_UP_SECONDS = 0.1
MOST_SLEEP = 1.0

log = structlog.get_logger("eldr")


class Replica:
    """Keeps this daemon's view and the shared state in sync.

    Parameters
    ----------
    state : SharedState
    store : MirroredStore
    tell : callable (bool)
        Told, whenever it changes, whether answers are known to the shared state.
    again : callable (str)
        Told why a request is decided again.

    Attributes
    ----------
    is_safe : bool
        Whether the shared state is reachable, and has all that this replica did.
    journal : Journal
        For the router to report to.
    leads : bool
        Whether this replica does what only one should: refits, and binding workers to slots.
    on_signature : callable (model, request_id)
        Told that another replica received a message of a request's signature.
    """

    def __init__(
        self,
        state: SharedState,
        store: MirroredStore,
        tell: Callable[[bool], None],
        again: Callable[[str], None],
    ) -> None:
        self.is_safe = False
        self.leads = False
        self.on_signature: Callable[[str, str], None] = lambda model, request_id: None
        self._state = state
        self._store = store
        self._tell = tell
        self._again = again
        self._commits = Commits(state)
        self._telling = self.journal = Telling(state, self._commits)
        self._refused: set[str] = set()
        self._asked_gone: dict[tuple[str, str], float] = {}
        self._slots: dict[str, str] = {}
        self._position = "0-0"
        self._identity = ""
        self._read_at = self._apart_since = 0.0
        self._caught_up: list[tuple[str, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    # Starting and stopping

    async def open(self) -> None:
        """Connect, and load models and workers from the shared state into the store."""
        until = time.monotonic() + START_SECONDS
        while not self._identity:
            try:
                self._identity = await self._state.open()
            except StoreError as error:
                if time.monotonic() >= until:
                    raise
                log.warning("the shared state is not there yet", error=str(error))
                await asyncio.sleep(0.5)
        self._position = await self._state.last_position()
        for record in await self._state.models():
            self._store.take_model(record)
        await fetch_partitions(self._state, self._store)
        for record in await self._state.workers():
            self._store.save_worker(read_worker(record))

    async def start(self, router: Router, workers: Workers, follower: Follower, now: float) -> int:
        """Load the existing bookings, and stay in sync; returns how many there are."""
        self._router, self._workers, self._follower = router, workers, follower
        kept = [kept_of(record) async for record in self._state.bookings()]
        with follower.elsewhere():
            ended = restore_bookings(router, kept, self._state.clock, now)
        self._store.tell, self._store.conflict = self._telling.tell, self._conflict
        self._telling.start(router, workers, follower)
        self._read_at, self.is_safe = now, True
        self._tell(True)
        self._task = asyncio.create_task(self._run())
        return len(kept) - len(ended)

    async def close(self) -> None:
        """Publish what is pending, and leave."""
        if self.is_safe and (through := self._commits.through()):
            await asyncio.wait([through], timeout=START_SECONDS)
        if self._task:
            await _end(self._task)
        if self.leads:
            with contextlib.suppress(StoreError):  # then it leads for some seconds longer
                await self._state.let_lead()
        await self._state.close()

    def written(self) -> asyncio.Future[None] | None:
        """What to wait for before an answer leaves; None for nothing."""
        return self._commits.through() if self.is_safe else None

    # Placements

    async def decided(self, booking: Booking) -> str:
        """Wait until the shared state has accepted a booking; returns empty, or why it has not.

        If not, it is no longer a booking, and the view now has what the decision lacked.
        """
        future = self._telling.undecided(booking)
        why = await asyncio.shield(future) if future else ""
        if why:
            self._again(why)
            await self.catch_up()
        return why

    async def still_lives(self, model: str, booking: Booking) -> bool:
        """Whether a booking to be repeated has not ended elsewhere; if it has, it ends here too."""
        if not self.is_safe:
            return True
        result = await self._asked(("renew", model, *booking.key, booking.lease_id))
        if result.word != "gone":
            return True
        await self.catch_up()
        with self._follower.elsewhere():
            self._router.withdraw(model, booking, time.monotonic())
        return False

    async def look_again(self, model: str, request_id: str) -> bool:
        """Fetch what the shared state has for a request, and everything else.

        Returns
        -------
        bool
            Whether the view may have lacked any of it.
        """
        if not self.is_safe:
            return False
        result = await self._asked(("look", model, request_id))
        lacked = await self.catch_up()
        known = self._router.models.get(model)
        if known and result.word in ("live", "ended"):
            with self._follower.elsewhere():
                ended = result.told
                if result.word == "live":
                    self._follower.book(kept_of(ended[0]))
                    ended = ended[1:]
                self._telling.remember(model, request_id, ended)
            return True
        return lacked

    async def found_released(self, booking: Booking) -> str:
        """What the shared state found for a booking that was released here; empty when apart."""
        future = self._telling.releasing(booking)
        return await asyncio.shield(future) if future else ""

    async def released(
        self, model: str, request_id: str, attempt: int, lease: str, told: str
    ) -> str:
        """Release a booking unknown to this view; `told` is from `operations.told_of`.

        Returns
        -------
        str
            ended, known, noted; gone if it has another lease, or empty when apart.
        """
        if not self.is_safe:
            return ""
        how = Ended.RELEASED_EARLY
        operation = operations.end(model, request_id, attempt, lease, how, "", told)
        return (await self._asked(operation)).word

    async def renewed_elsewhere(
        self, model: str, request_id: str, attempt: int, lease: str
    ) -> bool:
        """Whether a booking unknown to this view is alive; if so it is known from now on."""
        if not self.is_safe:
            return False
        result = await self._asked(("renew", model, request_id, attempt, lease))
        if result.word != "ok":
            return False
        with self._follower.elsewhere():
            self._follower.book(kept_of(result.told[0]))
        booking = self._router.models[model].bookings.find(request_id, attempt, lease)
        if booking:
            self._router.models[model].bookings.renew(booking, time.monotonic(), note=True)
        return booking is not None

    async def _asked(self, operation: Operation) -> Result:
        heard: list[Result] = []
        self._telling.tell(operation, heard.append)
        if through := self._commits.through():
            await through
        return heard[0] if heard else Result("")

    # Signatures

    def share_signature(
        self, model: str, request_id: str, seconds: float, message: bytes
    ) -> list[int]:
        """Publish a message with a part of a signature to other replicas.

        Returns
        -------
        list of int
            Filled in, once written, with how many such messages all replicas received.
        """
        sent: list[int] = []
        operation = "chunk", model, request_id, operations.milliseconds(seconds), message
        self._telling.tell(operation, lambda result: sent.append(int(result.told[0])))
        return sent

    async def signature(self, model: str, request_id: str) -> list[bytes]:
        """The messages of a request's signature that any replica received."""
        if not self.is_safe:
            return []
        try:
            return await self._state.signature(model, request_id)
        except StoreError:  # the commits will report it
            return []

    # Operators' choices

    @contextlib.asynccontextmanager
    async def agreed(self, model: str) -> AsyncIterator[None]:
        """What is chosen inside applies to all replicas, or UnavailableError says why not."""
        if not self.is_safe:
            raise UnavailableError(
                "the shared state cannot be reached: nothing can be chosen for all replicas"
            )
        self._refused.discard(model)
        yield
        if through := self._commits.through():
            await through
        if model in self._refused:
            raise UnavailableError(
                f"another replica changed model {model} in the same moment: look, and ask again"
            )

    def _conflict(self, model: str, record: bytes) -> None:
        self._refused.add(model)
        if record:
            with self._follower.elsewhere():
                self._follower.model(record)

    # Time

    def is_current(self, now: float) -> bool:
        """Whether the view is recent enough that what seems over is over.

        It is not after this process stood still; without the shared state there is no other view.
        """
        apart = not self.is_safe and now - self._apart_since > WAKE_SECONDS
        return apart or now - self._read_at < OLD_SECONDS

    async def current(self) -> None:
        """If the view is old, wait for what it missed."""
        until = time.monotonic() + WAKE_SECONDS
        while not self.is_current(now := time.monotonic()) and now < until:
            await asyncio.sleep(0.01)

    def silent(self, found: list[tuple[str, int]], now: float) -> None:
        """End workers that are drained, or that no replica has heard from for too long."""
        if not self.is_safe:
            return
        for name, row in found:
            model = self._router.models[name]
            spec, life = model.fleet.spec(row), self._workers.life(model, row)
            if now - self._asked_gone.get((name, spec.worker_id), -BEAT_SECONDS) >= BEAT_SECONDS:
                self._asked_gone[name, spec.worker_id] = now
                drained = model.is_drained(row)
                silence = 0 if drained else operations.milliseconds(spec.time_to_live)
                self._telling.tell(("gone", name, spec.worker_id, life or "", silence))

    def tick(self, now: float) -> None:
        """Do periodic work: the leading replica assigns slots to workers."""
        for key in [key for key, at in self._asked_gone.items() if now - at > OLD_SECONDS]:
            del self._asked_gone[key]
        if not (self.leads and self.is_safe):
            return
        for model in self._router.models.values():
            if model.partition:
                slots = json.dumps([model.partition.version, model.slots_by_worker()])
                if self._slots.get(model.name) != slots:
                    self._slots[model.name] = slots
                    self._telling.tell(("slots", model.name, slots))

    # Staying in sync

    async def _run(self) -> None:
        sleep = 0.05
        while True:
            try:
                if not self.is_safe:
                    await self._come_back()
                    sleep = 0.05
                await self._in_step()
            except StoreError as error:
                self._go_apart(error)
            except Exception as error:  # else this daemon would silently be alone
                log.exception("out of step")
                self._identity = ""  # the view may lack something: load everything
                self._go_apart(StoreError(repr(error)))
            await asyncio.sleep(sleep)
            sleep = min(2 * sleep, MOST_SLEEP)

    async def _in_step(self) -> None:
        tasks = [asyncio.create_task(w) for w in (self._commits.run(), self._read(), self._beat())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if isinstance(error := done.pop().exception(), StoreError):
                self._go_apart(error)  # before the other tasks have ended: calls wait
        finally:
            await _end(*tasks)
        if error:
            raise error

    async def _read(self) -> None:
        while True:
            await self._read_some()

    async def _read_some(self) -> None:
        changes, turns = await self._state.changes(self._position), Turns()
        for change in changes:
            await self._take(change)
            self._position = change.position
            await turns.give()
        self._read_at = time.monotonic()
        self._wake()

    async def _take(self, change: Change) -> None:
        own = change.replica == self._state.replica
        if change.kind == "model" and not own:
            await fetch_partitions(self._state, self._store)
        if change.kind == "forget" and not own:
            model, version = change.texts()
            with self._follower.elsewhere():
                self._store.delete_partition(model, int(version))
        elif change.kind == "chunk":
            if not own:
                self.on_signature(*change.texts())
        else:
            self._follower.apply(change, own)

    async def _beat(self) -> None:
        while True:
            leads = await self._state.lead(LEAD_SECONDS)
            if leads != self.leads:
                log.info("this replica leads" if leads else "another replica leads")
                self.leads = leads
                self._slots.clear()
            await asyncio.sleep(BEAT_SECONDS)

    async def catch_up(self) -> bool:
        """Wait for a while until the view has all that is committed now; True if it lacked any."""
        if not self.is_safe:
            return False
        before = self._position
        try:
            position = await self._state.last_position()
        except StoreError:  # the view is all there is
            return False
        if _number(self._position) >= _number(position):
            return self._position != before
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._caught_up.append((position, future))
        await asyncio.wait([future], timeout=CATCH_UP_SECONDS)
        return True

    def _wake(self) -> None:
        if not self._caught_up:
            return
        reached = _number(self._position)
        for position, future in self._caught_up:
            if _number(position) <= reached and not future.done():
                future.set_result(None)
        self._caught_up = [entry for entry in self._caught_up if not entry[1].done()]

    def _go_apart(self, error: StoreError) -> None:
        if self.is_safe:
            self._apart_since = time.monotonic()
            log.error(
                "the shared state cannot be reached: this replica goes on by its own view",
                error=str(error),
            )
        self.is_safe = self.leads = False
        self._store.apart = True
        self._tell(False)
        self._telling.let_go()

    async def _come_back(self) -> None:
        """Publish what was done meanwhile, and return to sync."""
        identity = await self._state.open()
        whole = identity == self._identity and not self._commits.overflowed
        if whole and self._position != "0-0":
            whole = await self._state.has(self._position)
        position = self._position if whole else await self._state.last_position()
        if not whole:
            self._follower.joining.clear()
            publish(self._telling, self._router, self._workers, self._store)
        committing = asyncio.create_task(self._commits.run())
        try:
            while through := self._commits.through():
                await asyncio.wait([through, committing], return_when=asyncio.FIRST_COMPLETED)
                if committing.done():
                    committing.result()
            if not whole:
                await adopt(self._state, self._router, self._workers, self._store, self._follower)
        finally:
            await _end(committing)
        self._position, self._identity = position, identity
        last = _number(await self._state.last_position())
        while _number(self._position) < last:
            await self._read_some()
        self._read_at = time.monotonic()
        self.is_safe = self._telling.waits = True
        self._store.apart = False
        self._tell(True)
        log.info("in step with the shared state again", afresh=not whole)


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks until they have ended: a client library may swallow a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.1)


def _number(position: str) -> tuple[int, int]:
    milliseconds, _, place = position.partition("-")
    return int(milliseconds), int(place)
