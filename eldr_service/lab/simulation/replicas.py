"""Several routers that are one, as the daemon's replicas are: each decides on a view that is late.

What a replica does itself it knows at once: bookings, their ends, reports of the workers that speak
to it. The others know it a fixed time later. What a decision rests on is checked against what all
have booked: where the worker has more than its view knew of, the request is decided again, on a
view without gaps.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport
from eldr_service.routing.call import RouteCall
from eldr_service.routing.journal import Journal
from eldr_service.routing.place import Placed
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.sqlite import SqliteStore

Change = Callable[["View", float], None]
Key = tuple[str, int]


class View(Journal):
    """One replica. As a journal it hears what its router does, and tells the others.

    Attributes
    ----------
    router : Router
    workers : Workers
        Those of the router; all views must register the same in the same order.
    """

    def __init__(self, make_router: Callable[[Journal], Router], replicas: "Replicas") -> None:
        self.router = make_router(self)
        self.workers = Workers(self.router, SqliteStore(None), first_incarnation=0)
        self._replicas = replicas
        self._coming: deque[tuple[float, Change]] = deque()
        self._applying = False

    def hears(self, change: Change, at: float) -> None:
        """Take in a change at that time, which is no earlier than that of the one before."""
        self._coming.append((at, change))

    def catch_up(self, now: float, whole: bool = False) -> None:
        """Take in what has come by now, or the `whole` of what was done."""
        self._applying = True
        while self._coming and (whole or self._coming[0][0] <= now):
            at, change = self._coming.popleft()
            change(self, min(at, now))
        self._applying = False

    def book(self, model: str, booking: Booking) -> None:
        """Count a booking of another replica."""
        self.router.model(model).book(booking)

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """Tell of an end, but not of one that never was a booking to the others."""

        def end(view: View, now: float) -> None:
            if own := view._own(model, booking.key):
                own.output_tokens = booking.output_tokens
                own.decode_seconds = booking.decode_seconds
                own.decode_counts = booking.decode_counts
                view.router.model(model).end(own, how, now)

        if how is not Ended.WITHDRAWN:
            self._replicas.gives_back(booking)
            self._say(end)

    def running(self, model: str, booking: Booking) -> None:
        """Tell that a worker has reported a booking."""

        def run(view: View, now: float) -> None:
            own = view._own(model, booking.key)
            if own and not own.seen_running:
                view.router.model(model).running(own)

        self._say(run)

    def completed(self, model: str, booking: Booking, counts: Counts) -> None:
        """Tell of the whole of a signature."""
        top_k, coverage = booking.top_k, booking.coverage

        def complete(view: View, now: float) -> None:
            if own := view._own(model, booking.key):
                known = view.router.model(model)
                known.complete_signature(own, counts, top_k, coverage, now)

        self._say(complete)

    def reported(
        self, model: str, row: int, report: LoadReport, left_out: Sequence[Booking], now: float
    ) -> None:
        """Tell what a worker measured; which requests it runs is told by what followed."""

        def take(view: View, now: float) -> None:
            known = view.router.model(model)
            life = known.fleet.incarnation(row)  # each replica numbers lives by itself here
            known.take_numbers(row, replace(report, held=(), incarnation=life), now)

        self._say(take)

    def _own(self, model: str, key: Key) -> Booking | None:
        return self.router.model(model).bookings.find(*key)

    def _say(self, change: Change) -> None:
        if not self._applying:
            self._replicas.tell(self, change)


class Replicas:
    """Requests and workers are spread over the replicas by turns, and stay with theirs.

    Parameters
    ----------
    number : int
    delay_s : float
        Until what one replica did is in the views of the others.
    make_router : callable (Journal) -> Router
        Called for each replica.

    Attributes
    ----------
    views : list of View
    decided_again : int
        Decisions for a worker on which others had booked more than their view knew of.
    """

    def __init__(
        self, number: int, delay_s: float, make_router: Callable[[Journal], Router]
    ) -> None:
        self.views = [View(make_router, self) for _ in range(number)]
        for which, view in enumerate(self.views):
            view.router.first_number = which << 32 if delay_s else 0  # those are one router
        self.decided_again = 0
        self._delay_s = delay_s
        self._now = 0.0
        self._booked: dict[Key, Booking] = {}
        self._sequences: Counter[str] = Counter()

    def at(self, turn: int, now: float) -> View:
        """The replica of a request or a worker, with what it has heard of by now."""
        self._now = now
        view = self.views[turn % len(self.views)]
        view.catch_up(now)
        return view

    def tick(self, now: float) -> None:
        """Let time pass, at all of them."""
        for turn in range(len(self.views)):
            self.at(turn, now).router.tick(now)

    def route(self, turn: int, call: RouteCall, now: float) -> Placed:
        """Place a request as all agree; see `Router.route` for the errors."""
        view = self.at(turn, now)
        placed = view.router.route(call, now)
        if placed.repeated:
            return placed
        if self._has_more(view, call.model, placed.booking) or not self._takes(placed.booking):
            self.decided_again += 1
            view.router.withdraw(call.model, placed.booking, now)
            view.catch_up(now, whole=True)
            placed = view.router.route(call, now)
            assert self._takes(placed.booking)
        as_placed = replace(placed.booking)  # what becomes of it is told later
        self.tell(view, lambda other, _: other.book(call.model, replace(as_placed)))
        return placed

    def tell(self, view: View, change: Change) -> None:
        """Have a change of one view reach the others."""
        for other in self.views:
            if other is not view:
                other.hears(change, self._now + self._delay_s)

    def gives_back(self, booking: Booking) -> None:
        """A booking has ended somewhere."""
        if self._booked.pop(booking.key, None):
            self._sequences[booking.worker_id] -= booking.num_sequences

    def _has_more(self, view: View, model: str, booking: Booking) -> bool:
        """Whether others have booked on the worker what the view does not know of."""
        known = view.router.model(model).fleet.booked(booking.row) - booking.num_sequences
        return self._sequences[booking.worker_id] > known

    def _takes(self, booking: Booking) -> bool:
        """Whether there is room for a booking among those of all replicas; it is taken then."""
        worker = booking.targets[0]
        if self._sequences[worker.worker_id] >= worker.capacity_sequences:
            return False
        self._booked[booking.key] = booking
        self._sequences[worker.worker_id] += booking.num_sequences
        return True
