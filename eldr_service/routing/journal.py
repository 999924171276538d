"""What a decision log records: all that later decisions depend on, in the order of the events."""

from collections.abc import Callable, Mapping, Sequence

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.partition import Partition
from eldr_service.core.worker import Avoidance, LoadReport, WorkerSpec, WorkerState
from eldr_service.policies.policy import Policy
from eldr_service.policies.state import PolicyState
from eldr_service.routing.call import Known, RouteCall


class Journal:
    """Told of every change of a model right after it, by the model's name. This one keeps nothing.

    What follows from a change is not told again, such as the slots that workers move to.
    """

    def appeared(self, model: str, policy: Policy) -> None:
        """A model became known."""

    def forgotten(self, model: str) -> None:
        """A model was forgotten."""

    def joined(
        self, model: str, row: int, spec: WorkerSpec, state: WorkerState, incarnation: int,
        now: float,
    ) -> None:  # fmt: skip
        """A worker began a life; all of a previous life has ended."""

    def updated(self, model: str, row: int, spec: WorkerSpec, now: float) -> None:
        """A worker registered again in the same life."""

    def stood(self, model: str, row: int, avoidance: Avoidance, relief: float) -> None:
        """Whether a worker is avoided, or the factor on its load, has changed."""

    def moved(self, model: str, row: int, state: WorkerState) -> None:
        """A worker became READY, DRAINING or GONE; GONE after the ends of its bookings."""

    def reported(
        self, model: str, row: int, report: LoadReport, left_out: Sequence[Booking], now: float
    ) -> None:
        """A worker's report was accepted; `left_out` is what it no longer lists."""

    def completed(self, model: str, booking: Booking, counts: Counts) -> None:
        """A booking has its complete signature."""

    def running(self, model: str, booking: Booking) -> None:
        """A worker has reported a booking for the first time."""

    def placed(
        self, model: str, call: RouteCall, known: Known, booking: Booking, now: float
    ) -> None:
        """A request was decided and booked."""

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """A booking ended."""

    def renewed(self, model: str, booking: Booking) -> None:
        """A booking lives at least a quarter of its lease longer than was last told."""

    def remembered(self, model: str, request_id: str, attempt: int, how: Ended, now: float) -> None:
        """The end of an attempt without a booking is remembered, or has changed."""

    def activated(self, model: str, partition: Partition, wishes: Mapping[str, int]) -> None:
        """A partition is in force; `wishes` bound workers to slots first."""

    def policy_set(self, model: str, policy: Policy, learned: PolicyState) -> None:
        """A policy is in force, starting with what one of its name had learned."""


class Journals(Journal):
    """Tells several journals, in order."""

    def __init__(self, *journals: Journal) -> None:
        for name in vars(Journal):
            if not name.startswith("_"):
                methods = [getattr(journal, name) for journal in journals]
                setattr(self, name, methods[0] if len(methods) == 1 else _to_each(methods))


def _to_each(methods: list[Callable[..., None]]) -> Callable[..., None]:
    def tell(*what: object) -> None:
        for method in methods:
            method(*what)

    return tell
