"""The state of a deployment: what `eldr status` and `eldr top` show about each model."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2
from rich.text import Text

from eldr_service.cli.session import Session
from eldr_service.core.words import counted

COLUMNS = (
    *("MODEL", "POLICY", "PARTITION", ">READY", ">LOAD", ">BOOKED", ">EXPERTS", ">STEP"),
    ">CAPTURE",
)


@dataclass(frozen=True)
class Standing:
    """One model as the daemon sees it now."""

    model: str
    policy: str
    workers: Sequence[fleet_pb2.Worker]
    partition: partition_pb2.PartitionInfo | None
    refit: partition_pb2.RefitStatus | None

    @property
    def option(self) -> str:
        """The option that names this model to a command."""
        return f"--model {shlex.quote(self.model)}"

    @property
    def decode(self) -> list[fleet_pb2.Worker]:
        """The decode workers."""
        return [w for w in self.workers if w.role == fleet_pb2.WORKER_ROLE_DECODE]

    @property
    def ready(self) -> list[fleet_pb2.Worker]:
        """The decode workers that take requests."""
        return [w for w in self.decode if w.state == fleet_pb2.WORKER_STATE_READY]

    @property
    def booked(self) -> int:
        """Sequences booked on the decode workers."""
        return sum(worker.booked_sequences for worker in self.decode)

    @property
    def load(self) -> float:
        """Booked and foreign sequences / capacity, over all READY decode workers."""
        capacity = sum(worker.capacity.sequences for worker in self.ready)
        held = sum(w.booked_sequences + w.foreign_sequences for w in self.ready)
        return held / capacity if capacity else 0.0

    @property
    def active_experts(self) -> float:
        """Reported active experts per layer, mean over sequences; 0 if none are reported."""
        return self._mean(lambda worker: worker.active_experts)

    @property
    def step_seconds(self) -> float:
        """Reported seconds per step, mean over sequences; 0 if none are reported."""
        return self._mean(lambda worker: worker.step_time.ToNanoseconds() / 1e9)

    @property
    def capturing(self) -> tuple[int, int]:
        """Number of workers that capture, and of those that say whether they do."""
        said = [w for w in self.workers if w.HasField("capture")]
        capturing = fleet_pb2.CAPTURE_STATE_CAPTURING
        return sum(w.capture.state == capturing for w in said), len(said)

    def troubles(self) -> Iterator[str]:
        """What keeps requests from being placed well, and what to do about it."""
        if not self.decode:
            yield "no decode worker is known; eldr workers add makes one known"
        elif not self.ready:
            yield "no decode worker is READY, so Route returns UNAVAILABLE"
        stale = [w.worker_id for w in self.decode if w.stale]
        if stale:
            yield f"reports are late from {', '.join(stale)}"
        full = [w.worker_id for w in self.ready if w.load >= 1]
        if full:
            yield f"full: {', '.join(full)}"
        avoided = [w.worker_id for w in self.workers if w.avoidance or w.relief > 1]
        if avoided:
            yield f"avoided: {', '.join(avoided)}; eldr workers list says why"
        capturing, said = self.capturing
        if capturing < said:
            yield (
                f"{counted(said - capturing, 'worker')} of {said} capture nothing;"
                " eldr workers list says why"
            )
        if self.partition is None:
            yield "no partition is active: policies that need one take the least loaded worker"
        elif vacant := [b.slot for b in self.partition.bindings if not b.worker_ids]:
            yield f"slots without a worker: {', '.join(map(str, vacant))}"

    def row(self) -> list[str | Text]:
        """Under COLUMNS."""
        capturing, said = self.capturing
        ready = f"{len(self.ready)}/{len(self.decode)}"
        partition = self.partition
        return [
            self.model,
            self.policy,
            f"{partition.version} ({partition.num_slots} slots)" if partition else "-",
            Text(ready, "green" if len(self.ready) == len(self.decode) else "yellow"),
            f"{self.load:.2f}",
            str(self.booked),
            f"{self.active_experts:.1f}" if self.active_experts else "-",
            f"{1e3 * self.step_seconds:.1f} ms" if self.step_seconds else "-",
            f"{capturing}/{said}" if said else "-",
        ]

    def document(self) -> dict[str, Any]:
        """For programs."""
        capturing, said = self.capturing
        return {
            "model": self.model,
            "policy": self.policy,
            "partition_version": self.partition.version if self.partition else 0,
            "decode_workers": len(self.decode),
            "ready": len(self.ready),
            "load": self.load,
            "booked_sequences": self.booked,
            "active_experts": self.active_experts or None,
            "step_seconds": self.step_seconds or None,
            "capturing": capturing,
            "capture_known": said,
            "last_refit": self.refit.last_outcome if self.refit else "",
            "troubles": list(self.troubles()),
        }

    def _mean(self, of: Any) -> float:
        told = [(w.batch_size, of(w)) for w in self.decode if w.batch_size and of(w)]
        weight = sum(batch for batch, _ in told)
        return sum(batch * value for batch, value in told) / weight if weight else 0.0


def standings(session: Session, model: str | None, timeout: float = 10.0) -> list[Standing]:
    """The standing of one model or all; a call may take `timeout` s, unless --timeout is given."""
    workers = session.call(fleet_pb2.ListWorkersRequest(model=model or ""), timeout).workers
    kept = session.call(partition_pb2.ListPartitionsRequest(model=model or ""), timeout)
    active = session.call(policy_pb2.ListPoliciesRequest(), timeout).active
    partitions = {p.model: p for p in kept.partitions if p.active}
    refits = {refit.model: refit for refit in kept.refits}
    policies = {one.model: one.name for one in active}
    names = [model] if model else sorted({w.model for w in workers} | policies.keys())
    return [
        Standing(
            name,
            policies.get(name, "-"),
            [w for w in workers if w.model == name],
            partitions.get(name),
            refits.get(name),
        )
        for name in names
    ]
