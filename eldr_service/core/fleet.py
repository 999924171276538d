"""The workers of one model, as a struct of arrays with stable rows and generation numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.placement import FleetSnapshot


class WorkerState(IntEnum):
    """Where a worker is in its life; the numbers are the contract's."""

    JOINING = 1
    READY = 2
    DRAINING = 3
    GONE = 4


class WorkerRole(IntEnum):
    """What a worker does; the numbers are the contract's."""

    DECODE = 1
    PREFILL = 2


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker says of itself when it registers. Times in seconds; 0 lives for ever."""

    worker_id: str
    role: WorkerRole = WorkerRole.DECODE
    url: str = ""
    dp_rank: int = 0
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity_sequences: int = 256
    capacity_kv_tokens: int = 0
    time_to_live: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One report of a worker. 0 stands for unknown in the three means."""

    incarnation: int
    number: int
    running_sequences: int = 0
    waiting_sequences: int = 0
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    held: tuple[tuple[str, int], ...] = ()
    foreign_sequences: int = 0
    active_experts: float = 0.0
    batch_size: float = 0.0
    step_seconds: float = 0.0
    state: WorkerState = WorkerState.READY


class StepReport(NamedTuple):
    """How a worker's recent steps were: sequences, experts per layer and token, seconds.

    A mean that is not known is 0.
    """

    batch_size: float
    active_experts: float
    step_seconds: float


# One row of the table. A row belongs to one worker after another; `generation` tells them apart.
_ROW = np.dtype(
    [
        ("generation", np.int64),
        ("incarnation", np.int64),
        ("state", np.int8),  # 0: free
        ("role", np.int8),
        ("capacity", np.int64),
        ("capacity_kv", np.int64),
        ("booked_sequences", np.int64),
        ("booked_tokens", np.int64),
        ("unseen_tokens", np.int64),  # booked, but not yet in a report's KV use
        ("report_number", np.int64),  # -1: never reported
        ("reported_at", np.float64),
        ("alive_until", np.float64),
        ("foreign", np.int64),
        ("kv_used", np.int64),
        ("active_experts", np.float64),
        ("batch_size", np.float64),
        ("step_seconds", np.float64),
    ]
)


class Fleet:
    """Membership, counts and reports of one model's workers.

    Parameters
    ----------
    report_limit : float
        Seconds after which a worker's report no longer counts.
    """

    def __init__(self, report_limit: float = 5.0) -> None:
        self.report_limit = report_limit
        self._table = np.zeros(8, dtype=_ROW)
        self._specs: list[WorkerSpec | None] = [None] * 8
        self._row_of: dict[str, int] = {}
        self._members_changed()

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._row_of

    def rows(self) -> Iterator[int]:
        """Rows in use, in order of registration."""
        return iter(sorted(self._row_of.values()))

    def row(self, worker_id: str) -> int | None:
        """The worker's row, or None when it is not there."""
        return self._row_of.get(worker_id)

    def spec(self, row: int) -> WorkerSpec:
        """What the worker of this row said of itself."""
        spec = self._specs[row]
        assert spec is not None
        return spec

    def state(self, row: int) -> WorkerState:
        """Where the worker of this row is in its life."""
        return WorkerState(int(self._table["state"][row]))

    def generation(self, row: int) -> int:
        """Which tenant of the row this is."""
        return int(self._table["generation"][row])

    def incarnation(self, row: int) -> int:
        """Which life of the worker this is."""
        return int(self._table["incarnation"][row])

    def booked(self, row: int) -> int:
        """Sequences booked on the worker."""
        return int(self._table["booked_sequences"][row])

    def record(self, row: int) -> Mapping[str, float]:
        """All numbers of a row, for listings."""
        return {name: self._table[name][row].item() for name in _ROW.fields or ()}

    # Membership

    def join(self, spec: WorkerSpec, state: WorkerState, incarnation: int, now: float) -> int:
        """Give the worker a row with nothing booked; one that is there keeps its row number."""
        row = self._row_of.get(spec.worker_id)
        if row is None:
            row = next((i for i, s in enumerate(self._specs) if s is None), len(self._specs))
            if row == len(self._specs):
                self._table = np.concatenate([self._table, np.zeros(row, dtype=_ROW)])
                self._specs.extend([None] * row)
        generation = self._table["generation"][row] + 1
        self._table[row] = np.zeros((), dtype=_ROW)
        for name, value in {
            "generation": generation,
            "incarnation": incarnation,
            "state": state,
            "role": spec.role,
            "capacity": spec.capacity_sequences,
            "capacity_kv": spec.capacity_kv_tokens,
            "report_number": -1,
            "alive_until": now + spec.time_to_live if spec.time_to_live else np.inf,
        }.items():
            self._table[name][row] = value
        self._specs[row] = spec
        self._row_of[spec.worker_id] = row
        self._members_changed()
        return row

    def set_state(self, row: int, state: WorkerState) -> None:
        """Move the worker on; GONE frees its row for another."""
        if state is not WorkerState.GONE:
            self._table["state"][row] = state
            return
        del self._row_of[self.spec(row).worker_id]
        self._specs[row] = None
        self._table["state"][row] = 0
        self._table["generation"][row] += 1
        self._members_changed()

    def silent(self, now: float) -> list[int]:
        """Rows whose worker was silent for longer than its time to live."""
        return [row for row in self.rows() if self._table["alive_until"][row] <= now]

    def _members_changed(self) -> None:
        rows = sorted(self._row_of.values())
        decode = [r for r in rows if self._table["role"][r] == WorkerRole.DECODE]
        self._decode_rows = np.array(decode, dtype=np.int64)
        self._worker_ids = tuple(self.spec(r).worker_id for r in decode)
        self._labels = tuple(self.spec(r).labels for r in decode)

    # Counts

    def book(self, row: int, sequences: int, tokens: int) -> None:
        """Count a booking."""
        self._table["booked_sequences"][row] += sequences
        self._table["booked_tokens"][row] += tokens
        self._table["unseen_tokens"][row] += tokens

    def unbook(self, row: int, generation: int, sequences: int, tokens: int, seen: bool) -> None:
        """Take a booking back, unless the row has another tenant by now."""
        if self._table["generation"][row] != generation:
            return
        self._table["booked_sequences"][row] -= sequences
        self._table["booked_tokens"][row] -= tokens
        if not seen:
            self._table["unseen_tokens"][row] -= tokens

    def seen(self, row: int, tokens: int) -> None:
        """From now on the worker's own reports include the booking's tokens."""
        self._table["unseen_tokens"][row] -= tokens

    # Reports

    def accept(self, row: int, report: LoadReport, now: float) -> bool:
        """Take a report in, unless it is late or of another life of the worker."""
        entry = self._table[row : row + 1]
        if report.incarnation != entry["incarnation"] or report.number <= entry["report_number"]:
            return False
        entry["report_number"] = report.number
        entry["reported_at"] = now
        entry["foreign"] = report.foreign_sequences
        entry["kv_used"] = report.kv_tokens_used
        if report.kv_tokens_total:
            entry["capacity_kv"] = report.kv_tokens_total
        entry["active_experts"] = report.active_experts
        entry["batch_size"] = report.batch_size
        entry["step_seconds"] = report.step_seconds
        if self.spec(row).time_to_live:
            entry["alive_until"] = now + self.spec(row).time_to_live
        return True

    def fresh(self, row: int, now: float) -> bool:
        """The worker's last report still counts."""
        return bool(
            self._table["report_number"][row] >= 0
            and now - self._table["reported_at"][row] <= self.report_limit
        )

    def load(self, row: int, now: float) -> float:
        """Booked and foreign sequences of a decode worker, relative to capacity."""
        capacity = self._table["capacity"]
        foreign = self._table["foreign"][row] if self.fresh(row, now) else 0
        sequences = self._table["booked_sequences"][row] + foreign
        largest = capacity[self._decode_rows].max(initial=1)
        return float(float(sequences) * largest / capacity[row])

    # What policies see

    def snapshot(
        self,
        now: float,
        *,
        slots: Mapping[int, int],
        centroids: NDArray[np.float32] | None,
        load: str = "sequences",
    ) -> FleetSnapshot:
        """Copy the decode workers' state.

        Parameters
        ----------
        slots : mapping of row to slot
        centroids : ndarray of float32, shape [K, D], or None
        load : {"sequences", "tokens", "kv"}

        Returns
        -------
        FleetSnapshot
            Eligible are those that are READY; the caller narrows it further.
        """
        rows = self._decode_rows
        table = self._table[rows]
        reported = table["report_number"] >= 0
        fresh = reported & (now - table["reported_at"] <= self.report_limit)
        sequences = table["booked_sequences"] + np.where(fresh, table["foreign"], 0)
        return FleetSnapshot(
            worker_ids=self._worker_ids,
            rows=rows,
            eligible=table["state"] == WorkerState.READY,
            load=_load(table, sequences, fresh, load),
            sequences=sequences,
            capacity=table["capacity"],
            slots=np.fromiter((slots.get(r, -1) for r in rows.tolist()), np.int32, len(rows)),
            centroids=centroids,
            stale=reported & ~fresh,
            active_experts=np.where(table["active_experts"] > 0, table["active_experts"], np.nan),
            batch_size=np.where(table["batch_size"] > 0, table["batch_size"], np.nan),
            step_seconds=np.where(table["step_seconds"] > 0, table["step_seconds"], np.nan),
            labels=self._labels,
        )


def _load(
    table: NDArray[np.void], sequences: NDArray[np.int64], fresh: NDArray[np.bool_], unit: str
) -> NDArray[np.float64]:
    """In flight, divided by the capacity relative to the largest."""
    capacity = table["capacity"]
    if unit != "sequences" and (table["capacity_kv"] > 0).all():
        capacity = table["capacity_kv"]
    amount = sequences
    if unit == "tokens":
        amount = table["booked_tokens"]
    elif unit == "kv":
        in_use = table["kv_used"].astype(np.float64) + table["unseen_tokens"]
        amount = np.where(fresh, in_use, table["booked_tokens"])
    # Multiplied before it is divided: equal ratios of integers then give equal floats, and so ties.
    # In floats, as sums and products of what workers report can exceed 64 bits.
    load: NDArray[np.float64] = amount.astype(np.float64) * capacity.max(initial=1) / capacity
    return load
