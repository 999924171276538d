"""The router: signatures come in, requests are placed and released, leases run out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from eldr_service.core.lease import Booking, Ended
from eldr_service.core.placement import Decision, FleetSnapshot, Reason, RequestView
from eldr_service.core.signature_buffer import HeldSignature, SignatureBuffer
from eldr_service.kernels import similarity, transform_signature
from eldr_service.policies.policy import Policy
from eldr_service.routing.decide import RouteCall, alternates, apply_filters, decide
from eldr_service.routing.model import Model, Observer


class ReleaseResult(Enum):
    """What a Release found; the names are the contract's."""

    RELEASED = 1
    ALREADY_RELEASED = 2
    UNKNOWN = 3


class ReleaseOutcome(IntEnum):
    """How a decode ended; the numbers are the contract's."""

    COMPLETED = 1
    FAILED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class WorkerScore:
    """How one worker looked when the decision was made. None where unknown."""

    worker_id: str
    ineligible_reason: str
    similarity: float | None
    load: float
    in_band: bool
    predicted_active_experts: float | None


@dataclass(frozen=True, slots=True)
class Placed:
    """An answer: the booking (not kept for a dry run), and what `explain` asked for."""

    booking: Booking
    repeated: bool = False
    scores: tuple[WorkerScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What the router may hold, and for how long. Seconds and bytes.

    Attributes
    ----------
    alternates : int
        Alternates in a placement at most.
    """

    lease_seconds: float = 900.0
    report_limit: float = 5.0
    signature_ttl: float = 600.0
    signature_bytes: int = 256 << 20
    alternates: int = 3
    max_models: int = 64
    max_workers: int = 4_096


class Router:
    """All models. Not for several threads: each call is one step, and nothing in it waits.

    Parameters
    ----------
    make_policy : callable () -> Policy
        The policy of a model that has not been given one.
    limits : Limits
    observer : Observer
    lease_prefix : str
        Tells this daemon's leases from another's.

    Notes
    -----
    `now` is everywhere the caller's monotonic clock in seconds, so that tests and simulations bring
    their own time.
    """

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        observer: Observer,
        limits: Limits | None = None,
        lease_prefix: str = "lease",
    ) -> None:
        self.limits = limits or Limits()
        self.models: dict[str, Model] = {}
        self.signatures = SignatureBuffer(self.limits.signature_ttl, self.limits.signature_bytes)
        self.observer = observer
        self._make_policy = make_policy
        self._lease_prefix = lease_prefix
        self._leases = 0

    def model(self, name: str) -> Model:
        """A model that is known.

        Raises
        ------
        NotFoundError
        """
        if model := self.models.get(name):
            return model
        raise NotFoundError(
            f"model {name} is unknown: no worker, partition or signature of it is here"
        )

    def model_or_new(self, name: str) -> Model:
        """A model, made known if it is not.

        Raises
        ------
        ResourceExhaustedError
            There are as many models as there may be.
        """
        if name not in self.models:
            if len(self.models) >= self.limits.max_models:
                raise ResourceExhaustedError(
                    f"{len(self.models)} models are known, the most there may be", 60.0
                )
            self.models[name] = Model(
                name, self._make_policy(), self.limits.report_limit, self.observer
            )
        return self.models[name]

    # Signatures

    def register_signature(
        self,
        model: str,
        request_id: str,
        epoch: int,
        chunk: ActivationCounts,
        *,
        sequence: int = 0,
        total_chunks: int = 0,
        prompt_tokens: int = 0,
        prefill_worker: str = "",
        fingerprint: int,
        now: float,
    ) -> HeldSignature:
        """Add a chunk to what is held of the request; see `SignatureBuffer.add` for the errors."""
        if known := self.models.get(model):
            known.check_geometry(chunk.geometry)
        held, dropped = self.signatures.add(
            model,
            request_id,
            epoch,
            chunk,
            sequence=sequence,
            total_chunks=total_chunks,
            prompt_tokens=prompt_tokens,
            prefill_worker=prefill_worker,
            fingerprint=fingerprint,
            now=now,
        )
        if dropped:
            self.observer.signatures_dropped(dropped, "memory")
        return held

    # Placements

    def route(self, call: RouteCall, now: float) -> Placed:
        """Pick a worker and book it.

        Raises
        ------
        FailedPreconditionError, UnavailableError, ResourceExhaustedError
            As the contract says of Route.
        """
        model = self.models.get(call.model)
        if call.counts is not None:
            if model:
                model.check_geometry(call.counts.geometry)
            if not call.counts.whole:
                layers = call.counts.geometry.num_layers
                raise InvalidArgumentError(
                    "counts.layers_present", f"all {layers} layers", len(call.counts.counts)
                )
        if model is None:
            raise UnavailableError(f"model {call.model} has no worker")
        model.expire(now)
        if not call.dry_run:
            booking = model.bookings.admit(call.request_id, call.attempt, call.fingerprint)
            if booking:
                model.bookings.renew(booking, now)
                return Placed(booking, repeated=True)
            if lower := model.bookings.live(call.request_id):
                model.end(lower, Ended.SUPERSEDED, now)
        return self._place(model, call, now)

    def _place(self, model: Model, call: RouteCall, now: float) -> Placed:
        counts, coverage, prefill_worker = self._known_counts(model, call)
        partition, policy = model.partition, model.policy
        snapshot = model.fleet.snapshot(
            now,
            slots=model.bindings.slot_of if model.bindings else {},
            centroids=partition.centroids if partition else None,
            load=policy.parameters.load,
        )
        filters = apply_filters(
            call,
            snapshot,
            tuple(model.fleet.spec(r).group for r in snapshot.rows.tolist()),
            self._group(model, prefill_worker),
            model.bookings.earlier_worker(call.request_id, call.attempt),
        )
        fleet = replace(snapshot, eligible=filters.eligible)
        explain = call.explain or call.dry_run
        signature = None
        if counts is not None and partition and (policy.needs_signature or explain):
            signature = _signature(counts, model)
        request = RequestView(
            call.request_id,
            model.decisions,
            signature,
            counts,
            coverage,
            call.num_sequences,
            call.prompt_tokens,
            call.expected_output_tokens,
            call.labels,
        )
        decision = decide(policy, request, fleet, bool(call.pinned_worker), model.name)
        if explain and decision.similarity is None and signature is not None and partition:
            decision = replace(
                decision, similarity=similarity(partition.centroids, signature, fleet.slots)
            )
        others = alternates(decision, fleet, filters, self.limits.alternates)
        chosen = decision.worker
        rows = fleet.rows.tolist()
        lease_seconds = call.lease_seconds or self.limits.lease_seconds
        looked_at = (
            signature is not None and decision.reason is not Reason.LEAST_LOADED_LOW_COVERAGE
        )
        booking = Booking(
            request_id=call.request_id,
            attempt=call.attempt,
            lease_id="" if call.dry_run else self._next_lease(),
            row=rows[chosen],
            generation=model.fleet.generation(rows[chosen]),
            worker_id=fleet.worker_ids[chosen],
            num_sequences=call.num_sequences,
            prompt_tokens=call.prompt_tokens,
            expected_output_tokens=call.expected_output_tokens,
            fingerprint=call.fingerprint,
            lease_seconds=lease_seconds,
            expires_at=now + lease_seconds,
            reason=decision.reason,
            policy=policy.name,
            partition_version=partition.version if partition and looked_at else 0,
            similarity=_number(decision.similarity, chosen),
            coverage=coverage,
            stale=bool((fleet.stale & fleet.eligible).any()),
            targets=tuple(model.fleet.spec(rows[i]) for i in (chosen, *others)),
            slot=int(fleet.slots[chosen]),
            counts=counts.copy() if policy.keeps_counts and counts is not None else None,
        )
        if not call.dry_run:
            model.book(booking)
            if counts is not None and model.geometry and coverage >= 0.5:
                model.recent.add(counts)
        scores = _scores(decision, fleet, filters.why_not) if explain else ()
        return Placed(booking, scores=scores)

    def _known_counts(
        self, model: Model, call: RouteCall
    ) -> tuple[NDArray[np.uint32] | None, float, str]:
        """Counts (None where there are none that fit), coverage and prefill worker."""
        if call.counts is not None:
            tokens = call.counts.num_tokens + call.counts.unknown_tokens
            counts = call.counts.counts if tokens else None
            return counts, call.counts.coverage, call.prefill_worker
        held = self.signatures.get(call.model, call.request_id)
        if held is None:
            return None, 0.0, call.prefill_worker
        prefill_worker = call.prefill_worker or held.prefill_worker
        fits = model.geometry in (None, held.geometry) and (held.tokens + held.unknown).any()
        return held.counts if fits else None, held.coverage, prefill_worker

    def _group(self, model: Model, prefill_worker: str) -> str:
        row = model.fleet.row(prefill_worker) if prefill_worker else None
        return "" if row is None else model.fleet.spec(row).group

    def _next_lease(self) -> str:
        self._leases += 1
        return f"{self._lease_prefix}-{self._leases:x}"

    def release(
        self,
        model: str,
        request_id: str,
        attempt: int,
        now: float,
        *,
        lease_id: str = "",
        output_tokens: int = 0,
        decode_seconds: float = 0.0,
        decode_counts: ActivationCounts | None = None,
    ) -> tuple[ReleaseResult, Booking | None]:
        """End a booking; remember the release of one that is not there.

        Returns
        -------
        result : ReleaseResult
        booking : Booking or None
            That which ended now.

        Raises
        ------
        NotFoundError
            The model is unknown.
        FailedPreconditionError
            The decode's counts have another geometry than the model.
        """
        known = self.models.get(model)
        if known is None and self.signatures.get(model, request_id):
            known = self.model_or_new(model)
        known = known or self.model(model)
        if decode_counts:
            known.check_geometry(decode_counts.geometry)
        known.expire(now)
        live = known.bookings.find(request_id, attempt)
        if live and lease_id not in ("", live.lease_id):
            return ReleaseResult.UNKNOWN, None
        if live:
            live.output_tokens, live.decode_seconds = output_tokens, decode_seconds
            live.decode_counts = decode_counts.counts if decode_counts else None
            known.end(live, Ended.RELEASED, now)
            self.signatures.discard(model, request_id)
            return ReleaseResult.RELEASED, live
        known_end = known.bookings.release_ended(request_id, attempt, now)
        if known.bookings.live(request_id) is None:
            self.signatures.discard(model, request_id)
        return ReleaseResult.ALREADY_RELEASED if known_end else ReleaseResult.UNKNOWN, None

    def renew(
        self, model: str, leases: Iterable[tuple[str, int, str]], now: float
    ) -> list[tuple[str, int, str]]:
        """Keep bookings alive; returns the (request_id, attempt, lease_id) that are not."""
        known = self.model(model)
        known.expire(now)
        unknown = []
        for lease in leases:
            if booking := known.bookings.find(*lease):
                known.bookings.renew(booking, now)
            else:
                unknown.append(lease)
        return unknown

    def tick(self, now: float) -> list[tuple[str, int]]:
        """Let time pass: leases, tombstones and signatures run out.

        Returns
        -------
        list of (model, row)
            Workers that were silent for longer than their time to live; the caller removes them.
        """
        if dropped := self.signatures.expire(now):
            self.observer.signatures_dropped(dropped, "age")
        silent = []
        for model in self.models.values():
            model.expire(now)
            model.bookings.forget(now)
            silent += [(model.name, row) for row in model.fleet.silent(now)]
        return silent


def _signature(counts: NDArray[np.uint32], model: Model) -> NDArray[np.float32] | None:
    assert model.partition
    transform = model.partition.transform
    assert transform.layers is not None
    signature = transform_signature(
        counts, transform.layers, transform.weights, transform.name == "sqrt"
    )
    return signature if signature.any() else None


def _number(values: NDArray[np.float64] | None, index: int) -> float | None:
    if values is None or np.isnan(values[index]):
        return None
    return float(values[index])


def _scores(
    decision: Decision, fleet: FleetSnapshot, why_not: Callable[[int], str]
) -> tuple[WorkerScore, ...]:
    return tuple(
        WorkerScore(
            worker_id,
            why_not(i),
            _number(decision.similarity, i),
            float(fleet.load[i]),
            bool(decision.in_band is not None and decision.in_band[i]),
            _number(decision.predicted_active_experts, i),
        )
        for i, worker_id in enumerate(fleet.worker_ids)
    )
