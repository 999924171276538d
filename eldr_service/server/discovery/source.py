"""The interface of a source of workers: it reports, again and again, which workers exist."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import WorkerSpec, WorkerState


class SourceError(Exception):
    """A source cannot be used; says which, where and why."""


class Found(NamedTuple):
    """A worker, as a source describes it.

    Attributes
    ----------
    spec : WorkerSpec
    geometry : ModelGeometry or None
    state : WorkerState
        READY; JOINING if it is not ready (yet, or for a while); DRAINING if it is about to end. A
        worker that is gone is not in the snapshot.
    """

    spec: WorkerSpec
    geometry: ModelGeometry | None = None
    state: WorkerState = WorkerState.READY


Key = tuple[str, str]
"""Model and worker id."""

Snapshot = Mapping[Key, Found]
"""All workers of a source at one time."""


class Take(Protocol):
    """Takes a source's snapshot, also if it was read and nothing has changed.

    `flaw` says what is wrong with a part of it, whose last good state is in the snapshot.
    """

    async def __call__(self, snapshot: Snapshot, flaw: str = "") -> None:
        """Return when the fleet matches the snapshot."""


Fail = Callable[[str], None]
"""Told why a source cannot be read now; its last snapshot stays."""


class Source(Protocol):
    """A place where workers are listed.

    Attributes
    ----------
    name : str
        For logs and metrics, such as `dns:decode.example`.
    """

    name: str

    async def follow(self, take: Take, fail: Fail) -> None:
        """Report the workers, now and at each change, without end."""
