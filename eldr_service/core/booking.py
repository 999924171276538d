"""Bookings of one model: which worker holds which request, for how long, and how that ended.

A booking's identity is (request_id, attempt). The table decides what a Route, a Release or a
report means for it; the fleet's counts follow from what it returns. Times are in seconds of a
monotonic clock that the caller reads.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from eldr_service.core.activation import Counts
from eldr_service.core.decision import Reason
from eldr_service.core.ends import REMEMBER_SECONDS, Ended, Ends
from eldr_service.core.errors import FailedPreconditionError
from eldr_service.core.signature_memory import Key, SignatureSource
from eldr_service.core.worker import WorkerSpec


class Packed(Protocol):
    """A policy's compact form of a booking's counts, to save memory."""

    def counts(self) -> Counts:
        """The approximate counts."""


@dataclass(slots=True, eq=False, kw_only=True)
class Booking:
    """One request on one worker, and the answer given for it.

    Attributes
    ----------
    request_id, attempt : the identity
    lease_id : str
    row, generation : int
        The worker's row in the fleet, and which of the row's successive workers it was.
    worker_id : str
    num_sequences, prompt_tokens, expected_output_tokens : int
    fingerprint : int
        Of the request's payload; the same identity with another fingerprint is refused.
    lease_seconds, expires_at : float
    targets : tuple of WorkerSpec
        The chosen worker and the alternates, best first.
    reason, policy, partition_version, similarity, coverage, stale
        The rest of the answer, repeated unchanged.
    slot : int
        The partition's slot that the placement counts for; -1 for none.
    kept : ndarray of uint16 or uint32, shape [num_layers, num_experts], Packed, or None
        The activation counts, for policies that keep state, which may pack them.
    top_k : int
        Experts that a token picks per layer, if there are counts.
    awaits_signature : bool
        The counts did not come with the call, and the registered signature is incomplete.
    source : SignatureSource
        Where the decision's counts came from.
    keys : tuple of Key
        The keys under which the request's own counts are remembered.
    declared : bool
        Whether the model's geometry was declared when the request was placed; else no counts are
        kept.
    seen_running : bool
        Whether the worker has reported it.
    left_out_by : int or None
        The number of the last report that omitted it, after one that listed it.
    output_tokens, decode_seconds, decode_counts
        What its release reported; 0 or None if it did not.
    number : int
        Its number in a store; 0 if it is in none.
    noted_until : float
        The `expires_at` that the store knows, approximately.
    waiting : int
        Calls that currently wait for this answer.
    answered : bool
        Whether one of them got it, as far as the daemon can know.
    """

    request_id: str
    attempt: int
    lease_id: str
    row: int
    generation: int
    worker_id: str
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    fingerprint: int
    lease_seconds: float
    expires_at: float
    reason: Reason
    policy: str
    partition_version: int = 0
    similarity: float | None = None
    coverage: float = 0.0
    stale: bool = False
    targets: tuple[WorkerSpec, ...] = ()
    slot: int = -1
    kept: Counts | Packed | None = None
    top_k: int = 0
    awaits_signature: bool = False
    source: SignatureSource = SignatureSource.UNSPECIFIED
    keys: tuple[Key, ...] = ()
    declared: bool = True
    seen_running: bool = False
    left_out_by: int | None = None
    output_tokens: int = 0
    decode_seconds: float = 0.0
    decode_counts: Counts | None = None
    number: int = 0
    noted_until: float = 0.0
    waiting: int = 0
    answered: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """The identity."""
        return self.request_id, self.attempt

    @property
    def counts(self) -> Counts | None:
        """The activation counts [num_layers, num_experts], as far as they are kept."""
        kept = self.kept
        return kept if kept is None or isinstance(kept, np.ndarray) else kept.counts()

    @property
    def early(self) -> bool:
        """Whether it rests on a part of its signature, and the rest has not come."""
        return self.awaits_signature and self.top_k > 0 and not self.source.is_predicted

    @property
    def known_coverage(self) -> float:
        """Share of the prompt's tokens whose experts are known; 0 while they are predicted."""
        return 0.0 if self.awaits_signature and self.source.is_predicted else self.coverage

    @property
    def tokens(self) -> int:
        """The most tokens that it will hold, as far as known."""
        return self.prompt_tokens + self.num_sequences * self.expected_output_tokens


class BookingTable:
    """The living bookings of one model, and the ends of others for ten minutes.

    Parameters
    ----------
    renewed : callable (Booking), optional
        Told of a booking that lives a quarter of its lease longer than was last told.
    """

    def __init__(self, renewed: Callable[[Booking], None] = lambda booking: None) -> None:
        self._renewed = renewed
        self._live: dict[str, Booking] = {}
        self._of_row: dict[int, dict[tuple[str, int], Booking]] = {}
        self._ends = Ends()
        self._expiries: list[tuple[float, str, int, str]] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is alive or remembered."""
        return not self._live and not len(self._ends)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Booking]:
        return iter(self._live.values())

    def live(self, request_id: str) -> Booking | None:
        """The request's living booking, of any attempt."""
        return self._live.get(request_id)

    def on_row(self, row: int) -> list[Booking]:
        """The bookings on a row, in order of creation."""
        return list(self._of_row.get(row, {}).values())

    def any_on_row(self, row: int) -> bool:
        """Whether something is booked on a row."""
        return row in self._of_row

    def unbooked(self, row: int, held: Iterable[tuple[str, int]]) -> int:
        """How many of a worker's requests run without a booking there, and were not called off."""
        mine = self._of_row.get(row, {})
        ends = (self.how_ended(*key) for key in dict.fromkeys(held) if key not in mine)
        return sum(1 for how in ends if how is None or not how.final)

    def earlier_worker(self, request_id: str, attempt: int) -> str:
        """The worker of the latest attempt before this one; empty if there was none."""
        past = self._ends.of(request_id)
        last = past.last if past else None
        if live := self._live.get(request_id):
            last = (live.attempt, live.worker_id)
        return last[1] if last and last[0] < attempt else ""

    def ended(self, request_id: str) -> bool:
        """Whether an attempt of the request was placed, and its end is remembered."""
        past = self._ends.of(request_id)
        return past is not None and past.last is not None

    def how_ended(self, request_id: str, attempt: int) -> Ended | None:
        """How an attempt ended; None if it lives, never existed, or is forgotten."""
        past = self._ends.of(request_id)
        return past.attempts.get(attempt) if past else None

    def admit(self, request_id: str, attempt: int, fingerprint: int) -> Booking | None:
        """Decide what a Route means: the booking to repeat, or None if it is to be placed.

        Raises
        ------
        FailedPreconditionError
            The identity came with another payload, has ended for good, or is superseded.
        """
        live = self._live.get(request_id)
        past = self._ends.of(request_id)
        if live is None and past is None:
            return None
        name = f"request {_short(request_id)} attempt {attempt}"
        if live and live.attempt == attempt:
            if live.fingerprint != fingerprint:
                raise FailedPreconditionError(
                    f"{name} is booked with another payload; send the same, or a higher attempt"
                )
            return live
        attempts = past.attempts if past else {}
        ended = attempts.get(attempt)
        if ended and ended.final:
            raise FailedPreconditionError(f"{name} cannot be placed: {ended.value}")
        routed = [a for a, how in attempts.items() if how is not Ended.RELEASED_EARLY]
        highest = max(routed + ([live.attempt] if live else []), default=attempt)
        if highest > attempt:
            raise FailedPreconditionError(f"{name} is superseded by attempt {highest}")
        return None

    def add(self, booking: Booking) -> None:
        """Keep a booking; its request must have none alive."""
        self._put(booking)
        heapq.heappush(self._expiries, _expiry(booking))
        if len(self._expiries) > 2 * len(self._live) + 1_000:  # mostly of ended bookings
            self._sort_expiries()

    def add_all(self, bookings: Iterable[Booking]) -> None:
        """Keep many bookings at once."""
        for booking in bookings:
            self._put(booking)
        self._sort_expiries()

    def _put(self, booking: Booking) -> None:
        assert booking.request_id not in self._live
        booking.noted_until = booking.expires_at
        self._live[booking.request_id] = booking
        self._of_row.setdefault(booking.row, {})[booking.key] = booking

    def _sort_expiries(self) -> None:
        self._expiries = [_expiry(booking) for booking in self._live.values()]
        heapq.heapify(self._expiries)

    def end(self, booking: Booking, how: Ended, now: float) -> None:
        """Remove a living booking."""
        del self._live[booking.request_id]
        row = self._of_row[booking.row]
        del row[booking.key]
        if not row:
            del self._of_row[booking.row]
        self._ends.add(booking.request_id, booking.attempt, how, now, booking.worker_id)

    def find(self, request_id: str, attempt: int, lease_id: str = "") -> Booking | None:
        """The living booking of that identity and lease; an empty lease matches any."""
        booking = self._live.get(request_id)
        if booking and booking.attempt == attempt and lease_id in ("", booking.lease_id):
            return booking
        return None

    def release_ended(self, request_id: str, attempt: int, now: float) -> tuple[bool, Ended | None]:
        """Record the release of a booking that is not alive.

        Returns
        -------
        known : bool
            Whether it or its end was known.
        noted : Ended or None
            How its end is now remembered; None if that is unchanged.
        """
        past = self._ends.of(request_id)
        before = past.attempts.get(attempt) if past else None
        if before and before.final:
            return True, None
        how = Ended.RELEASED if before else Ended.RELEASED_EARLY
        self._ends.add(request_id, attempt, how, now)
        return before is not None, how

    def remember(
        self, request_id: str, attempt: int, how: Ended, until: float, worker_id: str
    ) -> None:
        """Take in an end from an earlier run, to be remembered until then."""
        self._ends.add(request_id, attempt, how, until - REMEMBER_SECONDS, worker_id)

    def remembered(self) -> Iterator[list[tuple[str, int, Ended, str, float]]]:
        """All ends, a thousand or two at a time: request, attempt, how, worker, until when."""
        return self._ends.parts()

    def renew(self, booking: Booking, now: float, note: bool = False) -> None:
        """Extend a booking by another lease from now on; with `note`, tell so at once."""
        booking.expires_at = now + booking.lease_seconds
        if note or booking.expires_at - booking.noted_until > booking.lease_seconds / 4:
            booking.noted_until = booking.expires_at
            self._renewed(booking)

    def expired(self, now: float) -> list[Booking]:
        """The living bookings whose lease has run out; the caller ends them."""
        found = []
        while self._expiries and self._expiries[0][0] <= now:
            # By lease: the same attempt may have been placed again, with its own entry.
            _, request_id, attempt, lease_id = heapq.heappop(self._expiries)
            booking = self.find(request_id, attempt, lease_id)
            if booking is None:
                continue
            if booking.expires_at > now:  # renewed since
                heapq.heappush(self._expiries, _expiry(booking))
            else:
                found.append(booking)
        return found

    def listed(
        self, row: int, keys: Iterable[tuple[str, int]], now: float
    ) -> tuple[list[Booking], list[tuple[str, int]]]:
        """Take in a worker's list of the requests that it has.

        Returns
        -------
        started : bookings that it lists for the first time; the caller notes that on them
        unknown : requests that it lists without being booked there
        """
        mine = self._of_row.get(row, {})
        started, unknown = [], []
        for key in keys:
            booking = mine.get(key)
            if booking is None:
                unknown.append(key)
                continue
            if not booking.seen_running:
                started.append(booking)
            # Otherwise a later report overtook this one.
            if booking.expires_at < now + booking.lease_seconds:
                self.renew(booking, now)
        return started, unknown

    def left_out(self, bookings: Iterable[Booking], number: int, before: int) -> list[Booking]:
        """Record that a worker omits requests that it listed before.

        Parameters
        ----------
        number, before : int
            The numbers of its report and of the one before.

        Returns
        -------
        list of Booking
            Those that both omitted; the caller ends them.
        """
        finished = []
        for booking in bookings:
            if self._live.get(booking.request_id) is booking:
                if booking.left_out_by == before:
                    finished.append(booking)
                booking.left_out_by = number
        return finished

    def left_out_elsewhere(self, row: int, keys: Iterable[tuple[str, int]], number: int) -> None:
        """Record what a report omitted that another daemon received, which settles it."""
        mine = self._of_row.get(row, {})
        for key in keys:
            if booking := mine.get(key):
                booking.left_out_by = number

    def forget(self, now: float) -> None:
        """Drop ends that are too old, some of them per call."""
        self._ends.forget(now)


def _expiry(booking: Booking) -> tuple[float, str, int, str]:
    return booking.expires_at, *booking.key, booking.lease_id


def _short(request_id: str) -> str:
    return request_id if len(request_id) <= 64 else request_id[:61] + "…"
