"""What survives a restart, as plain records."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import WorkerRole, WorkerSpec


class StoreError(Exception):
    """The store cannot be opened, read or written; says which and why."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model: its geometry, its policy and which partition is active.

    Attributes
    ----------
    name : str
    geometry : ModelGeometry or None
        None if no source has declared it.
    policy : str
    policy_parameters : mapping of str to str
    active_version : int
        The version in force; 0 for none.
    history : tuple of int
        Versions active earlier, latest last; what a rollback goes back through.
    next_version : int
        The next partition's; never reused.
    automatic : tuple of int
        Versions from automatic refits that no operator has activated by hand, latest last.
    refit : str
        OFF, MANUAL or AUTO; empty for the daemon's setting.
    """

    name: str
    _: KW_ONLY
    geometry: ModelGeometry | None = None
    policy: str = ""
    policy_parameters: Mapping[str, str] = field(default_factory=dict)
    active_version: int = 0
    history: tuple[int, ...] = ()
    next_version: int = 1
    automatic: tuple[int, ...] = ()
    refit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One worker, as registered, and what the daemon adds.

    Attributes
    ----------
    model, worker_id : the identity
    role, state : str
        As in the contract, without the enum's prefix: DECODE, READY.
    url, dp_rank, group, labels : as registered
    capacity_sequences, capacity_kv_tokens : int
        0 tokens if unknown.
    incarnation : int
        This life of the worker.
    time_to_live : float
        Seconds of silence before it counts as gone; 0 for never.
    slot : int
        In the active partition; -1 for none.
    geometry : ModelGeometry or None
        As registered.
    drain_until : float
        Unix time of the deadline of its drain; 0 for none.
    drain_removes : bool
        Whether it is removed once drained.
    """

    model: str
    worker_id: str
    role: str
    url: str
    dp_rank: int
    group: str
    labels: Mapping[str, str]
    capacity_sequences: int
    capacity_kv_tokens: int
    state: str
    incarnation: int
    time_to_live: float = 0.0
    slot: int = -1
    geometry: ModelGeometry | None = None
    drain_until: float = 0.0
    drain_removes: bool = False

    @classmethod
    def of(cls, model: str, spec: WorkerSpec, **rest: Any) -> "WorkerRecord":
        """The record of a registered worker; `rest` is what the daemon adds."""
        return cls(
            model=model,
            worker_id=spec.worker_id,
            role=spec.role.name,
            url=spec.url,
            dp_rank=spec.dp_rank,
            group=spec.group,
            labels=dict(spec.labels),
            capacity_sequences=spec.capacity_sequences,
            capacity_kv_tokens=spec.capacity_kv_tokens,
            time_to_live=spec.time_to_live,
            **rest,
        )

    @property
    def spec(self) -> WorkerSpec:
        """The worker's registration."""
        return WorkerSpec(
            worker_id=self.worker_id,
            role=WorkerRole[self.role],
            url=self.url,
            dp_rank=self.dp_rank,
            group=self.group,
            labels=dict(self.labels),
            capacity_sequences=self.capacity_sequences,
            capacity_kv_tokens=self.capacity_kv_tokens,
            time_to_live=self.time_to_live,
        )
