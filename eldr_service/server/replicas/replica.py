"""One of several daemons that share a state: what it does is told, what others do is taken in.

It decides on its own view, in memory, and books at once. A placement is answered after the shared
state has taken it in; where another replica was first, or the view was too old, it is decided
again. Where the shared state cannot be reached each replica goes on by its own view, says so, and
tells all that it did when the state is back.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import REMEMBER_SECONDS, Ended
from eldr_service.core.errors import UnavailableError
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.journal import Journal
from eldr_service.routing.restore import restore_bookings
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers, record_of
from eldr_service.server.replicas.commits import Commits
from eldr_service.server.replicas.follower import Follower
from eldr_service.server.replicas.mirror import MirroredStore, read_worker, worker_fields
from eldr_service.stores.bookings import kept_of, row_of
from eldr_service.stores.records import StoreError
from eldr_service.stores.shared import operations
from eldr_service.stores.shared.operations import Change, Operation, Result
from eldr_service.stores.shared.state import SharedState

START_SECONDS = 10.0
"""How long a start waits for the shared state: afterwards there is nothing to decide on."""
BEAT_SECONDS = 1.0
LEAD_SECONDS = 4.0
OLD_SECONDS = 3.0
"""Without a word from the shared state the view may be that old: nothing ends for its age."""
CATCH_UP_SECONDS = 0.1
MOST_SLEEP = 1.0

log = structlog.get_logger("eldr")


class Replica(Journal):
    """Keeps this daemon's view and the shared state in step.

    Parameters
    ----------
    state : SharedState
    store : MirroredStore
    tell : callable (bool)
        Told whether what is answered is known to the shared state, whenever that changes.
    again : callable (str)
        Told why a request is decided again.

    Attributes
    ----------
    is_safe : bool
        The shared state is there, and has all that this replica did.
    leads : bool
        This replica does what only one should: refits, and binding workers to slots.
    on_signature : callable (model, request_id)
        Told that a message of a request's signature came to another replica.
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
        self._undecided: dict[str, asyncio.Future[str]] = {}
        self._refused: set[str] = set()
        self._asked_gone: dict[tuple[str, str], float] = {}
        self._slots: dict[str, str] = {}
        self._position = "0-0"
        self._identity = ""
        self._read_at = 0.0
        self._caught_up: list[tuple[str, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._listens = False

    # Starting and stopping

    async def open(self) -> None:
        """Connect, and fill the store with what the shared state knows of models and workers."""
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
        for model, version in await self._state.partition_versions():
            await self._fetch(model, int(version))
        for record in await self._state.workers():
            self._store.save_worker(read_worker(record))

    async def start(self, router: Router, workers: Workers, follower: Follower, now: float) -> int:
        """Take in the bookings that there are, and keep in step; returns how many there are."""
        self._router, self._workers, self._follower = router, workers, follower
        kept = [kept_of(record) async for record in self._state.bookings()]
        with follower.elsewhere():
            ended = restore_bookings(router, kept, self._state.clock, now)
        self._store.tell, self._store.conflict = self._commit, self._conflict
        self._read_at, self.is_safe, self._listens = now, True, True
        self._tell(True)
        self._task = asyncio.create_task(self._run())
        return len(kept) - len(ended)

    async def close(self) -> None:
        """Tell what is still to be told, and go."""
        if self.is_safe and (through := self._commits.through()):
            await asyncio.wait([through], timeout=START_SECONDS)
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._state.close()

    def written(self) -> asyncio.Future[None] | None:
        """What to wait for before an answer leaves; None for nothing."""
        return self._commits.through() if self.is_safe else None

    # Placements

    async def decided(self, booking: Booking) -> str:
        """Wait until the shared state has taken a booking in: empty, or why it has not.

        Then it is no booking any more, and the view knows what the decision did not.
        """
        future = self._undecided.get(booking.lease_id)
        why = await asyncio.shield(future) if future else ""
        if why:
            self._again(why)
            await self._catch_up()
        return why

    async def released(self, model: str, request_id: str, attempt: int) -> str:
        """Release what this view knows nothing of: ended, known, noted, or empty when apart."""
        if not self.is_safe:
            return ""
        operation = operations.end(model, request_id, attempt, "", Ended.RELEASED_EARLY, "")
        return (await self._asked(operation)).word

    async def renewed_elsewhere(
        self, model: str, request_id: str, attempt: int, lease: str
    ) -> bool:
        """Whether a booking that this view does not know is alive; if so it does from now on."""
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
        self._commit(operation, heard.append)
        if through := self._commits.through():
            await through
        return heard[0] if heard else Result("")

    # Signatures

    def share_signature(self, model: str, request_id: str, seconds: float, message: bytes) -> None:
        """Let other replicas have a message that brought a part of a signature."""
        self._commit(("chunk", model, request_id, operations.milliseconds(seconds), message), None)

    async def signature(self, model: str, request_id: str) -> list[bytes]:
        """The messages that brought a request's signature to any replica."""
        if not self.is_safe:
            return []
        try:
            return await self._state.signature(model, request_id)
        except StoreError:  # whoever commits will tell
            return []

    # Choices of an operator

    @asynccontextmanager
    async def agreed(self, model: str) -> AsyncIterator[None]:
        """What is chosen inside is so for all replicas, or UnavailableError says why not."""
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
        """The view is not so old that something may seem over that is not."""
        return now - self._read_at < OLD_SECONDS or not self.is_safe

    def silent(self, found: list[tuple[str, int]], now: float) -> None:
        """Have workers end that are drained, or that no replica has heard of for too long."""
        if not self.is_safe:
            return
        for name, row in found:
            model = self._router.models[name]
            spec, life = model.fleet.spec(row), self._workers.life(model, row)
            if now - self._asked_gone.get((name, spec.worker_id), -BEAT_SECONDS) >= BEAT_SECONDS:
                self._asked_gone[name, spec.worker_id] = now
                drained = model.is_drained(row)
                silence = 0 if drained else operations.milliseconds(spec.time_to_live)
                self._commit(("gone", name, spec.worker_id, life or "", silence), None)

    def tick(self, now: float) -> None:
        """Let time pass: the replica that leads says which slots workers have."""
        for key in [key for key, at in self._asked_gone.items() if now - at > OLD_SECONDS]:
            del self._asked_gone[key]
        if not (self.leads and self.is_safe):
            return
        for model in self._router.models.values():
            if model.partition:
                slots = json.dumps([model.partition.version, model.slots_by_worker()])
                if self._slots.get(model.name) != slots:
                    self._slots[model.name] = slots
                    self._commit(("slots", model.name, slots), None)

    # Journal

    def placed(
        self, model: str, call: RouteCall, known: Known, booking: Booking, now: float
    ) -> None:
        """A request was decided and booked."""
        if self._follower.applying:
            return
        if self.is_safe:
            self._undecided[booking.lease_id] = asyncio.get_running_loop().create_future()
        self._tell_of_booking(model, booking)

    def _tell_of_booking(self, model: str, booking: Booking) -> None:
        known = self._router.models[model]
        life = self._workers.life(known, booking.row)
        capacity = known.fleet.spec(booking.row).capacity_sequences
        booking.noted_until = booking.expires_at

        def make() -> Operation:
            return operations.place(
                model,
                booking,
                life=life,
                capacity=capacity,
                left=booking.expires_at - time.monotonic(),
                settled=booking.lease_id not in self._undecided,
                row=row_of(model, life, booking, self._state.clock),
            )

        self._commits.add(make, lambda result: self._taken(model, booking, result))

    def _taken(self, model: str, booking: Booking, result: Result) -> None:
        future = self._undecided.pop(booking.lease_id, None)
        if result.word != "ok":
            with self._follower.elsewhere():
                self._router.withdraw(model, booking, time.monotonic())
                if result.word == "live":
                    self._follower.book(kept_of(result.told[0]))
                elif result.word == "ended":
                    self._remember(model, booking.request_id, result.told)
            if future is None:
                log.warning(
                    "booking taken back: while the shared state was away another replica had the"
                    " request too",
                    request_id=booking.request_id,
                    model=model,
                    worker=booking.worker_id,
                )
        if future and not future.done():
            future.set_result("" if result.word == "ok" else result.word)

    def _remember(self, name: str, request_id: str, told: tuple[bytes, ...]) -> None:
        model, until = self._router.models[name], time.monotonic() + REMEMBER_SECONDS
        for attempt, how in zip(told[::2], told[1::2], strict=True):
            model.bookings.remember(request_id, int(attempt), Ended[how.decode()], until, "")

    def completed(self, model: str, booking: Booking, counts: Counts) -> None:
        """A booking has got its whole signature."""
        self.renewed(model, booking)

    def running(self, model: str, booking: Booking) -> None:
        """A worker has reported a booking for the first time."""
        self.renewed(model, booking)

    def renewed(self, model: str, booking: Booking) -> None:
        """A booking is otherwise than was last told."""
        if self._follower.applying:
            return
        life = self._workers.life(self._router.models[model], booking.row)
        booking.noted_until = booking.expires_at

        def make() -> Operation:
            left = operations.milliseconds(booking.expires_at - time.monotonic())
            row = row_of(model, life, booking, self._state.clock)
            return "update", model, booking.request_id, booking.lease_id, left, row

        self._commits.add(make)

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """A booking ended."""
        if self._follower.applying or how in (Ended.WORKER_GONE, Ended.WITHDRAWN):
            return  # where a worker's life ends, all its bookings do

        def hear(result: Result) -> None:
            if result.word == "renewed":
                with self._follower.elsewhere():
                    self._follower.book(kept_of(result.told[0]))

        lease, worker = booking.lease_id, booking.worker_id
        self._commit(operations.end(model, *booking.key, lease, how, worker, booking), hear)

    def remembered(self, model: str, request_id: str, attempt: int, how: Ended, now: float) -> None:
        """The end of an attempt without a booking is remembered.

        Connected, the release itself asks (`released`), for others may have the booking.
        """
        if not self._follower.applying and not self.is_safe:
            self._commit(operations.end(model, request_id, attempt, "", how, ""), None)

    def joined(
        self, model: str, row: int, spec: WorkerSpec, state: WorkerState, incarnation: int,
        now: float,
    ) -> None:  # fmt: skip
        """A worker began a life."""
        if not self._listens or self._follower.applying:
            return
        known = self._router.models[model]
        if self._workers.life(known, row):
            self._commit(("join", *worker_fields(record_of(known, row))), None)

    def reported(self, model: str, row: int, report: LoadReport, now: float) -> None:
        """A worker's report was accepted."""
        if self.is_safe and not self._follower.applying:
            known = self._router.models[model]
            life, worker_id = self._workers.life(known, row), known.fleet.spec(row).worker_id
            self._commit(operations.report(model, worker_id, life, report), None)

    def _commit(self, operation: Operation, hear: Callable[[Result], None] | None) -> None:
        self._commits.add(lambda: operation, hear)

    # Keeping in step

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
            except Exception as error:  # a fault of this program must not end the daemon's replica
                log.exception("out of step")
                self._go_apart(StoreError(repr(error)))
            await asyncio.sleep(sleep)
            sleep = min(2 * sleep, MOST_SLEEP)

    async def _in_step(self) -> None:
        tasks = [asyncio.create_task(w) for w in (self._commits.run(), self._read(), self._beat())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        done.pop().result()

    async def _read(self) -> None:
        while True:
            for change in await self._state.changes(self._position):
                await self._take(change)
                self._position = change.position
            self._read_at = time.monotonic()
            self._wake()

    async def _take(self, change: Change) -> None:
        own = change.replica == self._state.replica
        if change.kind == "model" and not own:
            versions = set(self._store.partition_versions(change.fields[0].decode()))
            for model, version in await self._state.partition_versions():
                if model == change.fields[0].decode() and int(version) not in versions:
                    await self._fetch(model, int(version))
        if change.kind == "forget" and not own:
            model, version = change.texts()
            with self._follower.elsewhere():
                self._store.delete_partition(model, int(version))
        elif change.kind == "chunk":
            if not own:
                self.on_signature(*change.texts())
        else:
            self._follower.apply(change, own)

    async def _fetch(self, model: str, version: int) -> None:
        data = await self._state.partition(model, version)
        if data is not None:
            self._store.replace_partition(model, version, data)

    async def _beat(self) -> None:
        while True:
            leads = await self._state.lead(LEAD_SECONDS)
            if leads != self.leads:
                log.info("this replica leads" if leads else "another replica leads")
                self.leads = leads
                self._slots.clear()
            await asyncio.sleep(BEAT_SECONDS)

    async def _catch_up(self) -> None:
        """Wait until the view has all that is committed now, for a while."""
        try:
            position = await self._state.last_position()
        except StoreError:  # the view is all there is
            return
        if _number(self._position) >= _number(position):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._caught_up.append((position, future))
        await asyncio.wait([future], timeout=CATCH_UP_SECONDS)

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
            log.error(
                "the shared state cannot be reached: this replica goes on by its own view",
                error=str(error),
            )
        self.is_safe = self.leads = False
        self._store.apart = True
        self._tell(False)
        for future in self._undecided.values():
            if not future.done():
                future.set_result("")
        self._undecided.clear()
        self._commits.let_go()

    async def _come_back(self) -> None:
        """Tell what was done meanwhile, and be in step again."""
        identity = await self._state.open()
        whole = identity == self._identity and not self._commits.overflowed
        if whole and self._position != "0-0":
            whole = await self._state.has(self._position)
        self._identity = identity
        position = self._position if whole else await self._state.last_position()
        if not whole:
            self._publish()
        committing = asyncio.create_task(self._commits.run())
        try:
            while through := self._commits.through():
                await asyncio.wait([through, committing], return_when=asyncio.FIRST_COMPLETED)
                if committing.done():
                    committing.result()
            if not whole:
                await self._adopt()
        finally:
            committing.cancel()
            await asyncio.wait([committing])
        self._position = position
        self._read_at = time.monotonic()
        self.is_safe, self._store.apart = True, False
        self._tell(True)
        log.info("in step with the shared state again", afresh=not whole)

    def _publish(self) -> None:
        """Tell all that this replica knows: the state was lost, or has lost its latest changes."""
        self._commits.clear()
        for model in self._router.models.values():
            for version in self._store.partition_versions(model.name):
                data = self._store.partition(model.name, version)
                self._commit(("partition", model.name, version, data), None)
            if text := self._store.text_of(model.name):
                self._commit(("model", model.name, "", text), self._theirs(model.name))
            for row in model.fleet.rows():
                if self._workers.life(model, row):
                    self._commit(("know", *worker_fields(record_of(model, row))), None)
            for booking in model.bookings:
                self._tell_of_booking(model.name, booking)
            for part in model.bookings.remembered():
                for request_id, attempt, how, worker_id, _ in part:
                    if how.final:
                        end = operations.end(model.name, request_id, attempt, "", how, worker_id)
                        self._commit(end, None)

    def _theirs(self, model: str) -> Callable[[Result], None]:
        def hear(result: Result) -> None:
            if result.word == "changed":
                self._conflict(model, result.told[0])

        return hear

    async def _adopt(self) -> None:
        """Have what the shared state has, and nothing else but what was done since."""
        before = {
            booking.lease_id: (model.name, booking)
            for model in self._router.models.values()
            for booking in model.bookings
        }
        workers = [read_worker(record) for record in await self._state.workers()]
        with self._follower.elsewhere():
            for worker in workers:
                self._follower.worker(worker)
        found = set()
        async for record in self._state.bookings():
            kept = kept_of(record)
            found.add(kept.lease_id)
            if kept.lease_id not in before:
                with self._follower.elsewhere():
                    self._follower.book(kept)
        now = time.monotonic()
        with self._follower.elsewhere():
            for lease_id, (model, booking) in before.items():
                if lease_id not in found:
                    self._router.withdraw(model, booking, now)
        known = {(worker.model, worker.worker_id) for worker in workers}
        for its in list(self._router.models.values()):
            for row in list(its.fleet.rows()):
                worker_id = its.fleet.spec(row).worker_id
                if (its.name, worker_id) not in known and self._workers.life(its, row):
                    with self._follower.elsewhere():
                        self._workers.remove(its.name, worker_id, 0, now)


def _number(position: str) -> tuple[int, int]:
    milliseconds, _, place = position.partition("-")
    return int(milliseconds), int(place)
