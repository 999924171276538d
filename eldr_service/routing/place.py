"""One placement: what is known about the request, the decision, and the booking to make."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason, RequestView
from eldr_service.core.signature_buffer import HeldSignature
from eldr_service.core.signature_memory import SignatureSource
from eldr_service.kernels import similarity
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.decide import alternates, apply_filters, decide
from eldr_service.routing.model import Model
from eldr_service.routing.why import Basis, WorkerScore, in_words, number_at, scores


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """An answer to Route.

    Attributes
    ----------
    booking : Booking
        Not kept for a dry run.
    repeated : bool
        Whether the booking existed before.
    scores : tuple of WorkerScore
        The explanation's scores, if asked for.
    rule : str
        In words, with its numbers, if there are scores.
    basis : Basis or None
        What the decision saw; None if it is repeated.
    counts : ndarray of uint16 or uint32, shape [num_layers, num_experts], or None
        The counts that the decision used.
    seconds : float
        How long it took, if measured.
    """

    booking: Booking
    repeated: bool = False
    scores: tuple[WorkerScore, ...] = ()
    rule: str = ""
    basis: Basis | None = None
    counts: Counts | None = None
    seconds: float = 0.0


def place(
    model: Model,
    call: RouteCall,
    known: Known,
    *,
    most_alternates: int,
    lease_seconds: float,
    lease_id: str,
    now: float,
) -> Placed:
    """Decide where a request goes. Changes nothing; the caller books.

    Raises
    ------
    UnavailableError, ResourceExhaustedError
        As for `apply_filters`.
    """
    counts, top_k, coverage = known.counts, known.top_k, known.coverage
    partition, policy = model.partition, model.policy
    snapshot = model.snapshot(now)
    filters = apply_filters(
        call, snapshot, model.fleet.groups, known.group, known.earlier, known.other_groups
    )
    fleet = snapshot.narrowed(filters.eligible)
    if cached := known.cached_tokens:
        tokens = np.array([cached.get(worker, 0) for worker in fleet.worker_ids], np.int64)
        fleet = fleet._replace(cached_tokens=tokens)
    explain = call.explain or call.dry_run
    signature = None
    wanted = policy.needs_signature or policy.needs_counts or explain
    if counts is not None and partition and wanted:
        signature = partition.transform.signature(counts)
    request = RequestView(
        request_id=call.request_id,
        number=model.number,
        signature=signature,
        counts=counts,
        top_k=top_k,
        coverage=coverage,
        num_sequences=call.num_sequences,
        prompt_tokens=call.prompt_tokens,
        expected_output_tokens=call.expected_output_tokens,
        labels=call.labels,
    )
    declared = known.declared
    decision = decide(
        policy,
        request,
        fleet,
        model=model.name,
        pinned=bool(call.pinned_worker),
        declared=declared,
    )
    # For all workers, not only where it mattered.
    if explain and signature is not None and partition:
        decision = replace(
            decision, similarity=similarity(partition.centroids, signature, fleet.slots)
        )
    chosen = decision.worker
    row = int(fleet.rows[chosen])
    targets = (chosen, *alternates(decision, fleet, filters, most_alternates))
    looked_at = signature is not None and decision.reason is not Reason.LEAST_LOADED_LOW_COVERAGE
    booking = Booking(
        request_id=call.request_id,
        attempt=call.attempt,
        lease_id=lease_id,
        row=row,
        generation=model.fleet.generation(row),
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
        similarity=number_at(decision.similarity, chosen),
        coverage=coverage,
        stale=bool(np.count_nonzero(fleet.stale & fleet.eligible)),
        targets=tuple(model.fleet.spec(int(fleet.rows[i])) for i in targets),
        slot=int(fleet.slots[chosen]),
        kept=counts.copy() if declared and policy.keeps_counts and counts is not None else None,
        top_k=top_k,
        awaits_signature=known.awaits_signature,
        source=known.source,
        keys=call.keys,
        declared=declared,
    )
    basis = Basis(fleet, filters, decision)
    if not explain:
        return Placed(booking, basis=basis, counts=counts)
    rule = in_words(policy, request, fleet, decision)
    return Placed(booking, scores=scores(basis, now), rule=rule, basis=basis, counts=counts)


def known_of(
    model: Model, call: RouteCall, held: HeldSignature | None, other_groups: bool = False
) -> Known:
    """What is known about a request, and about an earlier attempt of it."""
    counts, top_k, coverage, tokens = _known_counts(model, call, held)
    source, geometry = SignatureSource.UNSPECIFIED, model.geometry
    if counts is not None:
        source = SignatureSource.REGISTERED if call.counts is None else SignatureSource.CALLER
    elif geometry and call.counts is None and held is None:
        like = call.session, call.prefix_hashes, call.tenant
        if predicted := model.memory.predict(geometry, *like):
            source, counts = predicted
            top_k, coverage = geometry.top_k, 1.0
    return Known(
        counts=counts,
        top_k=top_k,
        coverage=coverage,
        source=source,
        tokens=tokens,
        group=model.group_of(call.prefill_worker or (held.prefill_worker if held else "")),
        earlier=model.bookings.earlier_worker(call.request_id, call.attempt),
        awaits_signature=call.counts is None and not (held and held.complete),
        declared=model.geometry is not None,
        other_groups=other_groups,
        cached_tokens=_cached_tokens(model, call),
    )


def _cached_tokens(model: Model, call: RouteCall) -> Mapping[str, int]:
    """Prompt tokens that workers hold: according to the caller, else believed from prefixes."""
    if call.cached_tokens:
        cached = {w: tokens for w, tokens in call.cached_tokens.items() if w in model.fleet}
    elif call.prefix_hashes:
        cached = model.cached_tokens(call.prefix_hashes, call.prefix_block_tokens)
    else:
        return {}
    if most := call.prompt_tokens:
        cached = {worker: min(tokens, most) for worker, tokens in cached.items()}
    return cached


def _known_counts(
    model: Model, call: RouteCall, held: HeldSignature | None
) -> tuple[Counts | None, int, float, tuple[int, int]]:
    if call.counts is not None:
        known, seen = call.counts.num_tokens, call.counts.num_tokens + call.counts.unknown_tokens
        counts = call.counts.counts if seen else None
        return counts, call.counts.geometry.top_k, call.counts.coverage, (known, seen)
    if held is None:
        return None, 0, 0.0, (0, 0)
    fits = model.geometry in (None, held.geometry) and (held.tokens + held.unknown).any()
    known, seen = held.known_of_prompt()
    coverage = known / seen if seen else 0.0
    return held.counts if fits else None, held.geometry.top_k, coverage, (known, seen)
