"""The workers of one model, as a struct of arrays with stable rows and generation numbers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.capture import CaptureStatus
from eldr_service.core.decision import FleetSnapshot
from eldr_service.core.quantised import QuantisedCentroids
from eldr_service.core.worker import Avoidance, LoadReport, WorkerRole, WorkerSpec, WorkerState

# One row of the table. Workers use a row in succession; `generation` tells them apart.
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
        ("unseen_tokens", np.int64),  # booked, but not yet in the KV use of a report
        ("report_number", np.int64),  # -1: never reported
        ("reported_at", np.float64),
        ("alive_until", np.float64),
        ("foreign", np.int64),
        ("kv_used", np.int64),
        ("active_experts", np.float64),
        ("batch_size", np.float64),
        ("step_seconds", np.float64),
        ("heard_at", np.float64),  # inf: need not be heard
        ("counts_unbooked", np.bool_),  # its requests without a booking are load
        ("held_down_until", np.float64),
        ("avoidance", np.int8),
        ("relief", np.float64),  # factor on its load; below 1 means 1
        ("pace", np.float64),  # its step time relative to its peers'; 0: unknown
    ]
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Known:
    """What changes only with membership, states, reports and their age, per decode worker."""

    since: float  # seconds; a later change of the fleet replaces it
    until: float  # when the next report is too old
    eligible: NDArray[np.bool_]
    capacity: NDArray[np.int64]
    divisor: NDArray[np.int64]  # capacity in the load's unit
    fresh: NDArray[np.bool_]
    stale: NDArray[np.bool_]
    foreign: NDArray[np.int64]  # of fresh reports
    kv_used: NDArray[np.float64]
    active_experts: NDArray[np.float64]
    batch_size: NDArray[np.float64]
    step_seconds: NDArray[np.float64]
    reported_at: NDArray[np.float64]  # NaN: never
    avoided: NDArray[np.int8] | None  # None: none is avoided
    relief: NDArray[np.float64] | None


class Fleet:
    """Membership, counts and reports of one model's workers.

    Parameters
    ----------
    report_limit : float
        Seconds after which a worker's report no longer counts.

    Attributes
    ----------
    version : int
        Increases whenever a worker joins or leaves.
    groups : tuple of str
        Of the decode workers, in order of registration; empty for one that fits any group.
    """

    def __init__(self, report_limit: float = 5.0) -> None:
        self.report_limit = report_limit
        self._table = np.zeros(8, dtype=_ROW)
        self._specs: list[WorkerSpec | None] = [None] * 8
        self._captures: list[CaptureStatus | None] = [None] * 8
        self._row_of: dict[str, int] = {}
        self.version = 0
        self._members_changed()

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._row_of

    def rows(self) -> Iterator[int]:
        """Rows in use, in order of registration."""
        return iter(sorted(self._row_of.values()))

    @property
    def decode_rows(self) -> NDArray[np.int64]:
        """Rows of the decode workers, in order of registration; do not write to it."""
        return self._decode_rows

    def row(self, worker_id: str) -> int | None:
        """The worker's row, or None if it is unknown."""
        return self._row_of.get(worker_id)

    def spec(self, row: int) -> WorkerSpec:
        """What the worker in this row registered."""
        spec = self._specs[row]
        assert spec is not None
        return spec

    def state(self, row: int) -> WorkerState:
        """The state of the worker in this row."""
        return WorkerState(int(self._table["state"][row]))

    def generation(self, row: int) -> int:
        """Which of the row's successive workers this is."""
        return int(self._table["generation"][row])

    def incarnation(self, row: int) -> int:
        """Which life of the worker this is."""
        return int(self._table["incarnation"][row])

    def report_number(self, row: int) -> int:
        """The number of the last report in this life; -1 for none."""
        return int(self._table["report_number"][row])

    def booked(self, row: int) -> int:
        """Sequences booked on the worker."""
        return int(self._table["booked_sequences"][row])

    def capacity_kv(self, row: int) -> int:
        """Tokens that the worker's KV memory holds; 0 if unknown."""
        return int(self._table["capacity_kv"][row])

    def capture(self, row: int) -> CaptureStatus | None:
        """The capture status last reported in this life, or None if none was."""
        return self._captures[row]

    def record(self, row: int) -> Mapping[str, float]:
        """All numbers of a row, for listings."""
        return dict(zip(_ROW.names or (), self._table[row].item(), strict=True))

    # Membership

    def join(
        self,
        spec: WorkerSpec,
        state: WorkerState,
        incarnation: int,
        now: float,
        counts_unbooked: bool = False,
    ) -> int:
        """Give the worker a row with nothing booked; a known worker keeps its row number."""
        row = self._row_of.get(spec.worker_id)
        if row is None:
            row = next((i for i, s in enumerate(self._specs) if s is None), len(self._specs))
            self._reach(row)
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
            "heard_at": now if spec.time_to_live else np.inf,
            "counts_unbooked": counts_unbooked,
            "relief": 1.0,
        }.items():
            self._table[name][row] = value
        self._specs[row], self._captures[row] = spec, spec.capture
        self._row_of[spec.worker_id] = row
        self._members_changed()
        return row

    def update(self, row: int, spec: WorkerSpec, now: float) -> None:
        """Take in the worker's new registration; its life, counts and reports go on."""
        entry = self._table[row : row + 1]
        entry["capacity"] = spec.capacity_sequences
        entry["capacity_kv"] = spec.capacity_kv_tokens or entry["capacity_kv"]
        entry["alive_until"] = now + spec.time_to_live if spec.time_to_live else np.inf
        if spec.time_to_live or np.isfinite(entry["heard_at"]):
            entry["heard_at"] = now
        self._specs[row] = spec
        self._captures[row] = spec.capture or self._captures[row]
        self._members_changed()

    def restore(self, row: int, spec: WorkerSpec, numbers: Mapping[str, float]) -> None:
        """Give the worker a free row with the numbers that `record` returned earlier."""
        self._reach(row)
        for name, value in numbers.items():
            self._table[name][row] = value
        self._specs[row], self._captures[row] = spec, spec.capture
        self._row_of[spec.worker_id] = row
        self._members_changed()

    def _reach(self, row: int) -> None:
        """Grow the table to include the row."""
        while row >= len(self._specs):
            size = len(self._specs)
            self._table = np.concatenate([self._table, np.zeros(size, dtype=_ROW)])
            self._specs.extend([None] * size)
            self._captures.extend([None] * size)

    def set_state(self, row: int, state: WorkerState) -> None:
        """Set the worker's state; GONE frees its row."""
        if state is not WorkerState.GONE:
            self._table["state"][row] = state
            self._known.clear()
            return
        del self._row_of[self.spec(row).worker_id]
        self._specs[row] = self._captures[row] = None
        self._table["state"][row] = 0
        self._table["generation"][row] += 1
        self._members_changed()

    def silent(self, now: float) -> list[int]:
        """Rows of workers silent for longer than their time to live."""
        rows = np.fromiter(self.rows(), np.int64)
        return rows[self._table["alive_until"][rows] <= now].tolist()  # type: ignore[no-any-return]

    def deaf(self, seconds: float) -> None:
        """Do not count the last `seconds` as silence: no report could be taken in."""
        self._table["alive_until"] += seconds
        self._table["heard_at"] += seconds

    # Standing of workers relative to each other

    def column(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of one column for these rows."""
        return np.asarray(self._table[name][rows])

    def hold_down(self, row: int, until: float) -> None:
        """Record until when a worker that came back is held down."""
        self._table["held_down_until"][row] = until

    def avoidance(self, row: int) -> Avoidance:
        """Whether and why a worker is avoided."""
        return Avoidance(int(self._table["avoidance"][row]))

    def standing(self, row: int) -> tuple[Avoidance, float]:
        """Whether and why a worker is avoided, and the factor on its load."""
        return self.avoidance(row), max(1.0, float(self._table["relief"][row]))

    def set_standing(self, row: int, avoidance: Avoidance, relief: float) -> None:
        """Set whether a worker is avoided, and the factor on its load."""
        self._table["avoidance"][row], self._table["relief"][row] = avoidance, relief
        self._known.clear()

    def pace(self, row: int) -> float:
        """A worker's step time relative to its peers'; 0 if unknown."""
        return float(self._table["pace"][row])

    def set_pace(self, row: int, pace: float) -> None:
        """Set a worker's step time relative to its peers'."""
        self._table["pace"][row] = pace

    def counts_unbooked(self, row: int) -> bool:
        """Whether requests without a booking are load: its life began before it was known."""
        return bool(self._table["counts_unbooked"][row])

    def _members_changed(self) -> None:
        rows = sorted(self._row_of.values())
        role = self._table["role"][rows] if rows else np.empty(0)
        decode = [r for r, of in zip(rows, role == WorkerRole.DECODE, strict=True) if of]
        self._decode_rows = np.array(decode, dtype=np.int64)
        self._worker_ids = tuple(self.spec(r).worker_id for r in decode)
        self._labels = tuple(self.spec(r).labels for r in decode)
        self.groups = tuple(self.spec(r).group for r in decode)
        self.version += 1
        self._known: dict[str, _Known] = {}  # by the load's unit

    # Counts

    def book(self, row: int, sequences: int, tokens: int) -> None:
        """Count a booking."""
        self._table["booked_sequences"][row] += sequences
        self._table["booked_tokens"][row] += tokens
        self._table["unseen_tokens"][row] += tokens

    def unbook(self, row: int, generation: int, sequences: int, tokens: int, seen: bool) -> None:
        """Take back a booking, unless the row has another worker by now."""
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
        """Accept a report, unless it is late or from another life of the worker."""
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
        self._captures[row] = report.capture or self._captures[row]
        self._known.clear()
        entry["heard_at"] = now
        if self.spec(row).time_to_live:
            entry["alive_until"] = now + self.spec(row).time_to_live
        return True

    def fresh(self, row: int, now: float) -> bool:
        """Whether the worker's last report still counts."""
        return bool(
            self._table["report_number"][row] >= 0
            and now - self._table["reported_at"][row] <= self.report_limit
        )

    def load(self, row: int, now: float) -> float:
        """Booked and foreign sequences of a decode worker / its capacity: 1.0 is full."""
        foreign = self._table["foreign"][row] if self.fresh(row, now) else 0
        sequences = self._table["booked_sequences"][row] + foreign
        return float(sequences / self._table["capacity"][row])

    # What policies see

    def snapshot(
        self,
        now: float,
        *,
        slots: NDArray[np.int32] | None = None,
        quantised: QuantisedCentroids | None = None,
        spread: float = math.nan,
        load: str = "sequences",
    ) -> FleetSnapshot:
        """The state of the decode workers at this moment.

        Parameters
        ----------
        slots : ndarray of int32, optional
            Per decode worker in order of registration; -1 for none, the default.
        quantised : QuantisedCentroids, optional
        spread : float, optional
            The active partition's.
        load : {"sequences", "tokens", "kv"}

        Returns
        -------
        FleetSnapshot
            READY workers are eligible; the caller narrows that further.
        """
        rows = self._decode_rows
        known = self._known.get(load)
        if known is None or not known.since <= now <= known.until:
            known = self._known[load] = _known(self._table[rows], now, self.report_limit, load)
        sequences = self._table["booked_sequences"][rows] + known.foreign
        if load == "sequences":
            amount = sequences.astype(np.float64)
        else:
            amount = self._table["booked_tokens"][rows].astype(np.float64)
        if load == "kv":
            in_use = known.kv_used + self._table["unseen_tokens"][rows]
            amount = np.where(known.fresh, in_use, amount)
        load_of = amount / known.divisor  # equal ratios of integers are equal floats: ties
        return FleetSnapshot(
            worker_ids=self._worker_ids,
            rows=rows,
            eligible=known.eligible,
            load=load_of if known.relief is None else _relieved(load_of, known),
            sequences=sequences,
            capacity=known.capacity,
            slots=np.full(len(rows), -1, dtype=np.int32) if slots is None else slots,
            quantised=quantised,
            stale=known.stale,
            active_experts=known.active_experts,
            batch_size=known.batch_size,
            step_seconds=known.step_seconds,
            labels=self._labels,
            reported_at=known.reported_at,
            avoided=known.avoided,
            spread=spread,
        )


def _relieved(load: NDArray[np.float64], known: _Known) -> NDArray[np.float64]:
    """Loads, with those of slow workers multiplied by their relief, the unit to come included.

    Without that unit, an idle slow worker would be as good as any other.
    """
    assert known.relief is not None
    return np.asarray(load * known.relief + (known.relief - 1.0) / known.divisor)


def _known(table: NDArray[np.void], now: float, report_limit: float, unit: str) -> _Known:
    """Read the rows of the decode workers; policies get these arrays directly."""
    reported = table["report_number"] >= 0
    fresh = reported & (now - table["reported_at"] <= report_limit)
    capacity = table["capacity"].copy()
    in_kv = unit != "sequences" and (table["capacity_kv"] > 0).all()
    divisor = table["capacity_kv"].copy() if in_kv else capacity
    avoided, relief = table["avoidance"].copy(), np.maximum(table["relief"], 1.0)
    known = _Known(
        since=now,
        until=float((table["reported_at"][fresh] + report_limit).min(initial=np.inf)),
        eligible=table["state"] == WorkerState.READY,
        capacity=capacity,
        divisor=divisor,
        fresh=fresh,
        stale=reported & ~fresh,
        foreign=np.where(fresh, table["foreign"], 0),
        kv_used=table["kv_used"].astype(np.float64),
        reported_at=np.where(reported, table["reported_at"], np.nan),
        avoided=avoided if avoided.any() else None,
        relief=relief if (relief > 1).any() else None,
        **{
            name: np.where(table[name] > 0, table[name], np.nan)
            for name in ("active_experts", "batch_size", "step_seconds")
        },
    )
    for column in fields(known):
        if isinstance(array := getattr(known, column.name), np.ndarray):
            array.flags.writeable = False
    return known
