"""What the page shows, as documents of plain values; NaN and unknown are None."""

import math
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from eldr_service.core.decision import Reason
from eldr_service.core.partition import Partition
from eldr_service.core.worker import WorkerRole
from eldr_service.policies.registry import parameters_of
from eldr_service.refits import Refits
from eldr_service.routing.model import Model
from eldr_service.server.comparison.load_only import Comparison
from eldr_service.server.page.followed import Followed, Placement

Document = dict[str, Any]
WHY = {
    Reason.POLICY: "by the policy",
    Reason.LOCALITY_BAND: "locality band",
    Reason.LEAST_LOADED_NO_SIGNATURE: "least loaded: no signature",
    Reason.LEAST_LOADED_LOW_COVERAGE: "least loaded: low coverage",
    Reason.LEAST_LOADED_NO_PARTITION: "least loaded: no partition",
    Reason.PINNED: "pinned by its caller",
    Reason.LEAST_LOADED_POLICY_ERROR: "least loaded: the policy failed",
}
EARLY = ", before the prefill's end"
MOST_SHOWN_WORKERS = 256
MOST_SHOWN_SLOTS = 64
_VERSION = version("eldr-service")


def document(
    models: Iterable[tuple[Model, Followed, Comparison | None]],
    compares: bool,
    refits: Refits,
    waiting: Callable[[str], int],
    troubles: str,
    serving: bool,
) -> Document:
    """All that the page shows but placements; `compares`: there are comparisons, or will be."""
    now = time.monotonic()
    return {
        "at": time.time(),
        "version": _VERSION,
        "serving": serving,
        "troubles": troubles,
        "models": [
            _model(model, followed, comparison, refits, waiting(model.name), now)
            | {"compares": compares}
            for model, followed, comparison in models
        ],
    }


def _model(
    model: Model,
    followed: Followed,
    comparison: Comparison | None,
    refits: Refits,
    waiting: int,
    now: float,
) -> Document:
    rows = list(model.fleet.rows())
    geometry = model.geometry
    return {
        "name": model.name,
        "geometry": geometry
        and {
            "layers": geometry.num_layers,
            "experts": geometry.num_experts,
            "top_k": geometry.top_k,
        },
        "policy": {"name": model.policy.name, "parameters": parameters_of(model.policy)},
        "leases": len(model.bookings),
        "waiting": waiting,
        "placements_per_s": followed.placements_per_second(now),
        "workers": [_worker(model, row, followed, now) for row in rows[:MOST_SHOWN_WORKERS]],
        "workers_left_out": max(0, len(rows) - MOST_SHOWN_WORKERS),
        "partition": _partition(model, followed),
        "refits": _refits(model, refits),
        "by_load": comparison
        and {
            "requests": comparison.requests,
            "active_experts": comparison.active_experts,
            "active_experts_by_load": comparison.active_experts_by_load,
            "step_change": _number(comparison.step_change),
        },
    }


def _worker(model: Model, row: int, followed: Followed, now: float) -> Document:
    fleet = model.fleet
    spec, record, capture = fleet.spec(row), fleet.record(row), fleet.capture(row)
    reported = record["report_number"] >= 0
    slot = model.bindings.slot_of.get(row) if model.bindings else None
    tokens = capture.known_tokens + capture.unknown_tokens if capture else 0
    decodes = spec.role is WorkerRole.DECODE
    avoidance, relief = fleet.standing(row)
    tpot = followed.tpot.get(spec.worker_id)
    return {
        "id": spec.worker_id,
        "role": spec.role.name,
        "state": fleet.state(row).name,
        "load": fleet.load(row, now) if decodes else None,
        "booked": fleet.booked(row),
        "capacity": spec.capacity_sequences,
        "capture": capture.state.name if capture else None,
        "capture_reason": capture.reason if capture else "",
        "coverage": capture.known_tokens / tokens if capture and tokens else None,
        "active_experts": _positive(record["active_experts"]) if reported else None,
        "batch": _positive(record["batch_size"]) if reported else None,
        "step_ms": _positive(1e3 * record["step_seconds"]) if reported else None,
        "tpot_ms": None if tpot is None else 1e3 * tpot,
        "report_age_s": now - record["reported_at"] if reported else None,
        "slot": slot,
        "avoided": avoidance.name,
        "relief": relief,
    }


def _partition(model: Model, followed: Followed) -> Document | None:
    partition = model.partition
    if partition is None:
        return None
    shown = min(partition.num_slots, MOST_SHOWN_SLOTS)
    current = followed.version == partition.version
    total = sum(float(shares.sum()) for shares in followed.shares.values()) if current else 0.0
    return {
        "version": partition.version,
        "slots": partition.num_slots,
        "slots_left_out": partition.num_slots - shown,
        "created": partition.created or None,
        "drift": _number(model.drift),
        "similarity": _cosines(partition),
        "traffic": {
            worker: [round(float(share) / total, 4) for share in shares[:shown]]
            for worker, shares in (followed.shares.items() if total else ())
        },
    }


@lru_cache(maxsize=8)
def _cosines(partition: Partition) -> list[list[float]]:
    """The cosine of each pair of centroids that is shown."""
    centroids = partition.centroids[:MOST_SHOWN_SLOTS]
    cosines: list[list[float]] = np.round((centroids @ centroids.T).astype(np.float64), 3).tolist()
    return cosines


def _refits(model: Model, refits: Refits) -> Document:
    status = refits.status(model)
    return {
        "mode": status.mode.name,
        "running": status.running,
        "last": status.last,
        "held_s": status.held_seconds,
    }


def of_placement(placement: Placement) -> Document:
    """What the page shows of a placement."""
    return {
        "at": placement.at,
        "model": placement.model,
        "request": placement.request_id,
        "attempt": placement.attempt,
        "worker": placement.worker_id,
        "why": WHY[placement.reason] + (EARLY if placement.early else ""),
        "policy": placement.policy,
        "signature": placement.source.name,
        "similarity": _number(placement.similarity),
        "coverage": _number(placement.coverage),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _positive(value: float) -> float | None:
    return float(value) if math.isfinite(value) and value > 0 else None
