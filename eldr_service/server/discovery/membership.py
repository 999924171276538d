"""Keeps a source's workers in the fleet, step by step so that calls can run in between."""

import asyncio
from dataclasses import dataclass, field

import structlog

from eldr_service.core.errors import EldrError, FailedPreconditionError
from eldr_service.core.worker import WorkerState
from eldr_service.routing.model import Model
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.discovery.source import Found, Key, Snapshot

RETRY_SECONDS = 5.0

log = structlog.get_logger("eldr")


@dataclass(slots=True)
class _Member:
    """A worker that the source lists, or listed until recently."""

    found: Found
    drained: int = 0  # the life that was drained because of the source
    until: float | None = None  # latest time of its removal; None while the source lists it


@dataclass(slots=True, kw_only=True)
class Membership:
    """The part of the fleet that one source has found.

    A worker that registers itself keeps its own registration, and is not removed from here. It is
    still drained when the source says that it is about to end.

    Parameters
    ----------
    source : str
    router : Router
    workers : Workers
    drain_seconds : float
        For bookings on a worker that is no longer found.
    owners : dict
        Which source has which worker; shared by all of them.
    """

    source: str
    router: Router
    workers: Workers
    drain_seconds: float
    owners: dict[Key, str]
    refused: dict[Key, str] = field(default_factory=dict)
    """Workers that could not join, and why; they are retried."""
    _members: dict[Key, _Member] = field(default_factory=dict)
    _wanted: Snapshot = field(default_factory=dict)
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    _retry_at: float = 0.0

    async def follow(self, wanted: Snapshot, now: float) -> None:
        """Let new and changed workers join, and drain those that the source no longer lists."""
        self._wanted = wanted
        async with self._busy:
            wanted = self._wanted  # the latest, after a wait
            for key, found in wanted.items():
                if self._differs(key, found):
                    self._try(key, found, now)
                    await asyncio.sleep(0)  # each takes some time on the loop
            for key in [k for k, m in self._members.items() if m.until is None]:
                if key not in wanted:
                    self._leave(key, now)
                    await asyncio.sleep(0)
            for key in self.refused.keys() - wanted.keys():
                del self.refused[key]

    async def tick(self, now: float) -> None:
        """Remove workers whose bookings are over, and retry those that could not join."""
        for key in [k for k, m in self._members.items() if m.until is not None]:
            self._remove(key, now)
        if self.refused and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            await self.follow(self._wanted, now)

    def _differs(self, key: Key, found: Found) -> bool:
        member = self._members.get(key)
        return member is None or member.until is not None or member.found != found

    def _try(self, key: Key, found: Found, now: float) -> None:
        try:
            self._take(key, found, now)
        except EldrError as error:
            if self.refused.get(key) != str(error):
                self.refused[key] = str(error)
                self._say("worker not taken", key, why=str(error), level="error")
        else:
            self.refused.pop(key, None)

    def _take(self, key: Key, found: Found, now: float) -> None:
        owner = self.owners.get(key, self.source)
        if owner != self.source:
            raise FailedPreconditionError(f"{owner} has a worker of that model and id already")
        member = self._members.get(key)
        there = self._row(key)
        if there and not self._is_discovered(*there):
            if member is None:
                self._say("worker found", key, why="its own registration is kept")
        elif member is None or member.found[:2] != found[:2]:
            starts = found.state if found.state is WorkerState.JOINING else WorkerState.READY
            life = self._life(found, *there) if there else 0
            self.workers.register(
                key[0], found.spec, starts, found.geometry, now, static=True, incarnation=life
            )
            there = self._row(key)
            self._say("worker joined", key, why="changed" if member else "found")
            member = member if life else None
        self.owners[key] = self.source
        drained = member.drained if member else 0
        self._members[key] = member = _Member(found, drained)
        if there:
            self._move(key, member, *there)

    def _move(self, key: Key, member: _Member, model: Model, row: int) -> None:
        """Bring an existing worker to the state that its source gives."""
        life, state = model.fleet.incarnation(row), model.fleet.state(row)
        if member.found.state is WorkerState.READY:
            ours = state is WorkerState.JOINING and self._is_discovered(model, row)
            if ours or (state is WorkerState.DRAINING and member.drained == life):
                model.resume(row)
                self._say("worker takes requests", key, why="ready")
            member.drained = 0
        elif state is WorkerState.READY:
            ends = member.found.state is WorkerState.DRAINING
            self._drain(key, member, life, why="about to end" if ends else "not ready")

    def _drain(self, key: Key, member: _Member, life: int, why: str) -> None:
        bookings = self.workers.drain(*key)
        member.drained = life
        self._say("worker drained", key, why=why, sequences=bookings)

    def _leave(self, key: Key, now: float) -> None:
        member = self._members[key]
        member.until = now + self.drain_seconds
        if (there := self._row(key)) and there[0].fleet.state(there[1]) is not WorkerState.DRAINING:
            self._drain(key, member, there[0].fleet.incarnation(there[1]), why="no longer found")
        self._remove(key, now)

    def _remove(self, key: Key, now: float) -> None:
        """Remove a worker that the source no longer lists, if it is time."""
        until, there = self._members[key].until, self._row(key)
        assert until is not None
        if there and self._is_discovered(*there):
            model, row = there
            left = len(model.bookings.on_row(row))
            if left and now < until:
                return
            self.workers.remove(*key, 0, now)
            why = "its drain took too long" if left else "no bookings are left"
            self._say("worker removed", key, why=why, ended_bookings=left)
        del self._members[key]
        self.owners.pop(key, None)

    def _row(self, key: Key) -> tuple[Model, int] | None:
        model = self.router.models.get(key[0])
        row = model.fleet.row(key[1]) if model else None
        return None if model is None or row is None else (model, row)

    def _life(self, found: Found, model: Model, row: int) -> int:
        """The life to continue if the source describes the same engine differently; 0 for none."""
        there, spec = model.fleet.spec(row), found.spec
        same = (there.url, there.dp_rank, there.role) == (spec.url, spec.dp_rank, spec.role)
        return model.fleet.incarnation(row) if same else 0

    def _is_discovered(self, model: Model, row: int) -> bool:
        """Whether bookings on such a worker are tied to none of its lives."""
        return self.workers.life(model, row) == 0

    def _say(self, event: str, key: Key, level: str = "info", **more: object) -> None:
        getattr(log, level)(event, model=key[0], worker=key[1], source=self.source, **more)
