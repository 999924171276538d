"""Several routers that act as one, as the daemon's replicas do: each decides on a late view.

A replica knows at once what it does itself: bookings, their ends, reports of its own workers. The
others know it a fixed time later. Each decision is checked against the bookings of all replicas: if
the worker has more than the view knew of, the request is decided again, on a complete view.
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
    """One replica's view. As a journal it records what its router does, and tells the others.

    Attributes
    ----------
    router : Router
    workers : Workers
        The router's workers; all views must register the same in the same order.
    """

    def __init__(self, make_router: Callable[[Journal], Router], replicas: "Replicas") -> None:
        self.router = make_router(self)
        self.workers = Workers(self.router, SqliteStore(None), first_incarnation=0)
        self._replicas = replicas
        self._coming: deque[tuple[float, Change]] = deque()
        self._applying = False

    def hears(self, change: Change, at: float) -> None:
        """Receive a change at time `at`, which is no earlier than the previous one's."""
        self._coming.append((at, change))

    def catch_up(self, now: float, whole: bool = False) -> None:
        """Apply the changes that have arrived by `now`, or if `whole`, all changes."""
        self._applying = True
        while self._coming and (whole or self._coming[0][0] <= now):
            at, change = self._coming.popleft()
            change(self, min(at, now))
        self._applying = False

    def book(self, model: str, booking: Booking) -> None:
        """Count a booking of another replica."""
        self.router.model(model).book(booking)

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """Tell of an end, unless the others never knew the booking."""

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
        """Tell of a completed signature."""
        top_k, coverage = booking.top_k, booking.coverage

        def complete(view: View, now: float) -> None:
            if own := view._own(model, booking.key):
                known = view.router.model(model)
                known.complete_signature(own, counts, top_k, coverage, now)

        self._say(complete)

    def reported(
        self, model: str, row: int, report: LoadReport, left_out: Sequence[Booking], now: float
    ) -> None:
        """Tell what a worker measured; the bookings' changes tell which requests it runs."""

        def take(view: View, now: float) -> None:
            known = view.router.model(model)
            life = known.fleet.incarnation(row)  # each replica numbers incarnations by itself here
            known.take_numbers(row, replace(report, held=(), incarnation=life), now)

        self._say(take)

    def _own(self, model: str, key: Key) -> Booking | None:
        return self.router.model(model).bookings.find(*key)

    def _say(self, change: Change) -> None:
        if not self._applying:
            self._replicas.tell(self, change)


class Replicas:
    """Spreads requests and workers over the replicas in turn; each stays with its replica.

    Parameters
    ----------
    number : int
    delay_s : float
        Time until what one replica did is in the views of the others.
    make_router : callable (Journal) -> Router
        Called for each replica.

    Attributes
    ----------
    views : list of View
    decided_again : int
        Requests decided again, as others had booked more on the worker than the view knew of.
    """

    def __init__(
        self, number: int, delay_s: float, make_router: Callable[[Journal], Router]
    ) -> None:
        self.views = [View(make_router, self) for _ in range(number)]
        for which, view in enumerate(self.views):
            view.router.first_number = which << 32 if delay_s else 0  # else one router
        self.decided_again = 0
        self._delay_s = delay_s
        self._now = 0.0
        self._booked: dict[Key, Booking] = {}
        self._sequences: Counter[str] = Counter()

    def at(self, turn: int, now: float) -> View:
        """The replica of a request or worker, its view brought up to `now`."""
        self._now = now
        view = self.views[turn % len(self.views)]
        view.catch_up(now)
        return view

    def tick(self, now: float) -> None:
        """Let time pass at all replicas."""
        for turn in range(len(self.views)):
            self.at(turn, now).router.tick(now)

    def route(self, turn: int, call: RouteCall, now: float) -> Placed:
        """Place a request, checked against all bookings; errors as from `Router.route`."""
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
        as_placed = replace(placed.booking)  # its later changes are told separately
        self.tell(view, lambda other, _: other.book(call.model, replace(as_placed)))
        return placed

    def tell(self, view: View, change: Change) -> None:
        """Send a change of one view to the others."""
        for other in self.views:
            if other is not view:
                other.hears(change, self._now + self._delay_s)

    def gives_back(self, booking: Booking) -> None:
        """Give back the place of an ended booking."""
        if self._booked.pop(booking.key, None):
            self._sequences[booking.worker_id] -= booking.num_sequences

    def _has_more(self, view: View, model: str, booking: Booking) -> bool:
        """Whether others have booked more on the worker than the view knows of."""
        known = view.router.model(model).fleet.booked(booking.row) - booking.num_sequences
        return self._sequences[booking.worker_id] > known

    def _takes(self, booking: Booking) -> bool:
        """Take a place for a booking; False if the bookings of all replicas leave none."""
        worker = booking.targets[0]
        if self._sequences[worker.worker_id] >= worker.capacity_sequences:
            return False
        self._booked[booking.key] = booking
        self._sequences[worker.worker_id] += booking.num_sequences
        return True
