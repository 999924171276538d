"""The router: signatures come in, requests are placed and released, leases expire."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    did_you_mean,
)
from eldr_service.core.recent import RecentCounts
from eldr_service.core.signature_buffer import HeldSignature, SignatureBuffer
from eldr_service.core.signature_memory import SignatureMemory
from eldr_service.core.words import counted
from eldr_service.policies.policy import Policy
from eldr_service.routing.call import RouteCall
from eldr_service.routing.decide import apply_filters
from eldr_service.routing.explanations import MAX_DECISIONS, Explanation, Explanations
from eldr_service.routing.journal import Journal
from eldr_service.routing.model import Model
from eldr_service.routing.moves import Proposal
from eldr_service.routing.observer import Observer
from eldr_service.routing.place import Placed, known_of, place
from eldr_service.routing.standing import StandingLimits


class ReleaseResult(Enum):
    """The result of a Release; the names are the contract's."""

    RELEASED = 1
    ALREADY_RELEASED = 2
    UNKNOWN = 3


class ReleaseOutcome(IntEnum):
    """How a decode ended; the numbers are the contract's."""

    COMPLETED = 1
    FAILED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the router may hold, and for how long. Seconds and bytes.

    Attributes
    ----------
    alternates : int
        Most alternates in a placement.
    window_seconds, window_bytes
        For the recent counts of each model.
    prediction_bytes : int
        For what each model remembers to predict signatures; 0 to predict none.
    explanations : int
        Decisions of each model that can be explained later.
    standing : StandingLimits
        When workers are avoided.
    move_rest_seconds : float
        How long a request that was placed, or proposed to be moved, is not proposed.
    other_groups : bool
        Whether another group's worker may take a request if none of the prefill worker's group can.
    """

    lease_seconds: float = 900.0
    report_limit: float = 5.0
    signature_ttl: float = 600.0
    signature_bytes: int = 256 << 20
    alternates: int = 3
    window_seconds: float = 1_800.0
    window_bytes: int = 64 << 20
    prediction_bytes: int = 96 << 20
    max_models: int = 64
    max_workers: int = 4_096
    explanations: int = MAX_DECISIONS
    standing: StandingLimits = field(default_factory=StandingLimits)
    move_rest_seconds: float = 0.25
    other_groups: bool = False


class Router:
    """All models. Not thread-safe: each call is one step, and nothing in it waits.

    Parameters
    ----------
    make_policy : callable () -> Policy
        Makes the policy of a model for which none was set.
    limits : Limits
    observer : Observer
    lease_prefix : str
        Distinguishes this daemon's leases from another's.
    journal : Journal, optional
        Told of all that decisions depend on.

    Attributes
    ----------
    first_number : int
        Of each model's decisions, as `Model.first_number`.
    notes_renewals : bool
        Whether the journal is told of each renewal by a caller, as other replicas may end the
        booking.

    Notes
    -----
    `now` is always the caller's monotonic clock in seconds, so that tests and simulations can use
    their own time.
    """

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        observer: Observer,
        limits: Limits | None = None,
        lease_prefix: str = "lease",
        journal: Journal | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.models: dict[str, Model] = {}
        self.signatures = SignatureBuffer(self.limits.signature_ttl, self.limits.signature_bytes)
        self.observer = observer
        self._journal = journal or Journal()
        self._make_policy = make_policy
        self._lease_prefix = lease_prefix
        self._leases = 0
        self.notes_renewals = False
        self.first_number = 0

    def model(self, name: str) -> Model:
        """A known model.

        Raises
        ------
        NotFoundError
        """
        if model := self.models.get(name):
            return model
        raise NotFoundError(
            f"model {name} is unknown: no worker, partition or signature of it is here"
            + did_you_mean(name, self.models)
        )

    def model_or_new(self, name: str) -> Model:
        """A model, created if unknown.

        Raises
        ------
        ResourceExhaustedError
            The number of models is at its limit.
        """
        if name not in self.models:
            if len(self.models) >= self.limits.max_models:
                raise ResourceExhaustedError(
                    f"{counted(len(self.models), 'model')} known, the most there may be", 60.0
                )
            model = self.models[name] = Model(
                name,
                self._make_policy(),
                self.limits.report_limit,
                self.observer,
                RecentCounts(self.limits.window_bytes, self.limits.window_seconds),
                self._journal,
                Explanations(self.limits.explanations),
                self.limits.standing,
                SignatureMemory(self.limits.prediction_bytes),
                self.limits.move_rest_seconds,
            )
            model.first_number = self.first_number
            self._journal.appeared(name, model.policy)
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
        """Add a chunk to the request's signature; see `SignatureBuffer.add` for the errors.

        A booking made before the signature was complete gets it when it is. Signatures are held for
        as many unknown model names as there may be models.
        """
        known = self.models.get(model)
        if known:
            known.check_geometry(chunk.geometry)
        elif self.signatures.num_models >= len(self.models) + self.limits.max_models:
            raise ResourceExhaustedError(
                f"model {model} is unknown, and signatures of {self.signatures.num_models} models"
                " are held",
                60.0,
            )
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
        if known and held.complete:
            booking = known.bookings.live(request_id)
            if booking and booking.awaits_signature:
                top_k, coverage = held.geometry.top_k, held.coverage
                known.complete_signature(booking, held.counts, top_k, coverage, now)
        return held

    # Placements

    def route(self, call: RouteCall, now: float) -> Placed:
        """Pick a worker and book it.

        Raises
        ------
        FailedPreconditionError, UnavailableError, ResourceExhaustedError
            As in the contract of Route.
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
            near = did_you_mean(call.model, self.models)
            raise UnavailableError(f"model {call.model} has no worker{near}")
        model.expire(now)
        if not call.dry_run:
            booking = model.bookings.admit(call.request_id, call.attempt, call.fingerprint)
            if booking:
                model.bookings.renew(booking, now)
                return Placed(booking, repeated=True)
            if lower := model.bookings.live(call.request_id):
                self._check_pinned(model, call, lower, now)
                model.end(lower, Ended.SUPERSEDED, now)
        held = self.signatures.get(call.model, call.request_id)
        known = known_of(model, call, held, self.limits.other_groups)
        placed = place(
            model,
            call,
            known,
            most_alternates=self.limits.alternates,
            lease_seconds=call.lease_seconds or self.limits.lease_seconds,
            lease_id="" if call.dry_run else self._next_lease(),
            now=now,
        )
        if not call.dry_run:
            assert placed.basis is not None  # not a repeat
            model.explanations.keep(
                call, known, placed.booking, placed.basis, model.policy, model.number, now
            )
            model.book(placed.booking)
            if call.prefix_hashes:
                model.hold_prefixes(
                    placed.booking.row, call.prefix_hashes, call.prefix_block_tokens
                )
            if call.movable:
                model.movable.add(placed.booking, call, known.group, now)
            self._journal.placed(model.name, call, known, placed.booking, now)
            model.remember(placed.counts, placed.booking, now)
        return placed

    def _check_pinned(self, model: Model, call: RouteCall, lower: Booking, now: float) -> None:
        """If the pinned worker cannot take it, the running attempt goes on."""
        if call.pinned_worker not in ("", lower.worker_id):
            fleet, group = model.snapshot(now), model.group_of(call.prefill_worker)
            apply_filters(call, fleet, model.fleet.groups, group, "", self.limits.other_groups)

    def propose_move(self, model: str, now: float) -> Proposal | None:
        """The move of a running request that the policy would make now; changes nothing.

        A caller that carries it out places the next attempt, pinned to the target.
        """
        known = self.models.get(model)
        if not (known and known.movable):
            return None
        return known.movable.propose(known.policy, known.fleet, known.snapshot, now)

    def answered(self, model: str, booking: Booking, reached: bool, now: float) -> None:
        """Record that a call got its answer, or is gone: a booking that no caller knows of ends.

        It is kept if a repeat of the call waits for the same booking, or has it.
        """
        booking.waiting -= 1
        booking.answered |= reached
        if booking.waiting or booking.answered:
            return
        known = self.models.get(model)
        if known and known.bookings.live(booking.request_id) is booking:
            known.end(booking, Ended.UNANSWERED, now)

    def withdraw(self, model: str, booking: Booking, now: float) -> None:
        """Take back a booking that the other replicas do not have."""
        known = self.models.get(model)
        if known and known.bookings.live(booking.request_id) is booking:
            known.end(booking, Ended.WITHDRAWN, now)

    def explain(self, model: str, request_id: str, attempt: int | None, now: float) -> Explanation:
        """Why a request was placed as it was; without `attempt`, its latest one that is kept.

        Raises
        ------
        NotFoundError
            It was not placed, or what its decision saw is no longer kept; the message says which.
        """
        known = self.model(model)
        known.expire(now)
        kept = known.explanations.attempts(request_id)
        if not kept or attempt not in (None, *kept):
            raise NotFoundError(self._why_not_explained(known, request_id, attempt, kept))
        attempt = kept[-1] if attempt is None else attempt
        booking = known.bookings.find(request_id, attempt)
        ended = None if booking else known.bookings.how_ended(request_id, attempt)
        return known.explanations.explain(
            request_id, attempt, booking, ended.value if ended else ""
        )

    def _why_not_explained(
        self, model: Model, request_id: str, attempt: int | None, kept: list[int]
    ) -> str:
        most = model.explanations.most
        name = f"request {request_id}" + ("" if attempt is None else f" attempt {attempt}")
        if not most:
            return f"{name}: no explanations are kept here (--explanations 0)"
        if kept:
            attempts = ", ".join(map(str, kept))
            return f"{name} is not kept; of this request there is attempt {attempts}"
        limit = f"explanations of the last {counted(len(model.explanations), 'decision')} are kept"
        booking = model.bookings.live(request_id)
        if booking and attempt in (None, booking.attempt):
            worker = booking.worker_id
            return f"{name} is booked on {worker}, but its explanation was dropped: {limit}"
        if model.bookings.ended(request_id):
            return f"{name} has ended, and its explanation was dropped: {limit}"
        if held := self.signatures.get(model.name, request_id):
            tokens = counted(held.tokens_held, "token")
            return f"{name} has not been placed; its signature is held, of {tokens}"
        return f"{name} is unknown: not placed here, or so long ago that it is forgotten; {limit}"

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
        outcome: ReleaseOutcome = ReleaseOutcome.COMPLETED,
        output_tokens: int = 0,
        decode_seconds: float = 0.0,
        decode_counts: ActivationCounts | None = None,
    ) -> tuple[ReleaseResult, Booking | None]:
        """End a booking; remember the release if there is none.

        Returns
        -------
        result : ReleaseResult
        booking : Booking or None
            The booking that ended now.

        Raises
        ------
        NotFoundError
            The model is unknown.
        FailedPreconditionError
            The decode's counts have another geometry than the model.
        """
        if model not in self.models and self.signatures.get(model, request_id):
            self.signatures.discard(model, request_id)
            return ReleaseResult.UNKNOWN, None
        known = self.model(model)
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
            if outcome is not ReleaseOutcome.CANCELLED:
                known.judge(live, outcome is ReleaseOutcome.FAILED, now)
            self.signatures.discard(model, request_id)
            return ReleaseResult.RELEASED, live
        known_end, noted = known.bookings.release_ended(request_id, attempt, now)
        if noted:
            self._journal.remembered(model, request_id, attempt, noted, now)
        if known.bookings.live(request_id) is None:
            self.signatures.discard(model, request_id)
        return ReleaseResult.ALREADY_RELEASED if known_end else ReleaseResult.UNKNOWN, None

    def renew(
        self, model: str, leases: Iterable[tuple[str, int, str]], now: float
    ) -> list[tuple[str, int, str]]:
        """Keep bookings alive; returns the (request_id, attempt, lease_id) that are not alive."""
        known = self.model(model)
        known.expire(now)
        unknown = []
        for lease in leases:
            if booking := known.bookings.find(*lease):
                known.bookings.renew(booking, now, note=self.notes_renewals)
            else:
                unknown.append(lease)
        return unknown

    def deaf(self, seconds: float) -> None:
        """Nothing could be received for `seconds`: silent workers may have reported meanwhile."""
        for model in self.models.values():
            model.fleet.deaf(seconds)

    def tick(self, now: float) -> list[tuple[str, int]]:
        """Advance time: leases, tombstones and signatures expire.

        Returns
        -------
        list of (model, row)
            Workers silent for longer than their time to live, or drained and to be removed; the
            caller removes them.
        """
        if dropped := self.signatures.expire(now):
            self.observer.signatures_dropped(dropped, "age")
        silent = []
        for model in list(self.models.values()):
            model.expire(now)
            model.bookings.forget(now)
            gone = dict.fromkeys((*model.pass_time(now), *model.fleet.silent(now)))
            silent += [(model.name, row) for row in gone]
            if model.is_empty:
                del self.models[model.name]
                self._journal.forgotten(model.name)
        return silent
