"""What a source of workers is: something that says, again and again, which workers there are."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import WorkerSpec, WorkerState


class SourceError(Exception):
    """A source cannot be used; says which, where and why."""


class Found(NamedTuple):
    """A worker, as a source has it.

    Attributes
    ----------
    spec : WorkerSpec
    geometry : ModelGeometry or None
    state : WorkerState
        READY; JOINING for one that is not ready (yet, or for a while); DRAINING for one that is
        about to end. One that is gone is not in the snapshot.
    """

    spec: WorkerSpec
    geometry: ModelGeometry | None = None
    state: WorkerState = WorkerState.READY


Key = tuple[str, str]
"""Model and worker id."""

Snapshot = Mapping[Key, Found]
"""All workers of a source at one moment."""


class Take(Protocol):
    """Gets what a source has, again too when it was read and nothing has changed.

    `flaw` says what is wrong with a part of it, for which the last good state is in the snapshot.
    """

    async def __call__(self, snapshot: Snapshot, flaw: str = "") -> None:
        """Return when the fleet is as the snapshot has it."""


Fail = Callable[[str], None]
"""Gets why a source cannot be read now; its last snapshot goes on."""


class Source(Protocol):
    """Where workers are named.

    Attributes
    ----------
    name : str
        For logs and metrics, such as `dns:decode.example`.
    """

    name: str

    async def follow(self, take: Take, fail: Fail) -> None:
        """Tell what there is, now and at each change, without end."""
