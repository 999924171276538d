"""The interface of a policy, and the parameters that policies share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.ends import Ended
from eldr_service.core.words import counted
from eldr_service.core.worker import LoadReport
from eldr_service.policies.state import PolicyState
from eldr_service.policies.words import at_load, names

LoadUnit = Literal["sequences", "tokens", "kv"]


class PolicyParameters(BaseModel):
    """Parameters of every policy. Subclass it to add more."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    exclusive: ClassVar[
        tuple[tuple[str, ...], ...]
    ] = ()  # groups of names, of which one each may be given

    load: LoadUnit = Field(
        default="sequences",
        description="what a worker's load counts: sequences in flight, tokens in flight"
        " (prompt and expected output), or KV tokens in use",
    )


class SignatureParameters(PolicyParameters):
    """Parameters of every policy that reads signatures."""

    min_coverage: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the prompt's tokens whose experts must be known, 0 to 1;"
        " below it the least loaded worker is taken",
    )


class SeededParameters(PolicyParameters):
    """Parameters of every policy that draws at random.

    Daemons that serve the same workers side by side need different seeds: with equal seeds they
    draw alike, and pick the same worker at the same time.
    """

    seed: int = Field(default=0, ge=0, description="seed of the draws")


class Move(NamedTuple):
    """A running request that should move to another worker.

    Attributes
    ----------
    booking : Booking
    worker : int
        Index into the snapshot.
    gain_seconds : float
        Predicted, over all requests, less what the move costs.
    """

    booking: Booking
    worker: int
    gain_seconds: float


class Policy(ABC):
    """Picks a decode worker from a request and a snapshot of the fleet.

    Subclasses set `name`, `description` (one line) and, if they take more than `load`,
    `Parameters`; they are found by the entry-point group `eldr.policies`, under the same name.

    `pick` must be pure: it is called for dry runs too, and its result may be discarded. The same
    request, snapshot and earlier bookings give the same decision; randomness comes only from
    `request.number` and the seed (see `draw`).

    State belongs in the hooks. Those for bookings are called exactly once each, in the order in
    which bookings begin and end. They see every booking, also those that `pick` did not decide:
    pinned ones, and those of requests without a signature. When a policy is put in force while
    requests flow, `on_booked` is first called for each living booking.

    A policy that raises does not fail the request: the least loaded worker is taken, and the error
    is logged.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    Parameters: ClassVar[type[PolicyParameters]] = PolicyParameters
    # Needs a signature and a partition: without them `pick` is not called, and the least loaded
    # worker is taken.
    needs_signature: ClassVar[bool] = False
    # Needs counts of enough coverage: without them `pick` is not called either. With a partition
    # there is a signature too.
    needs_counts: ClassVar[bool] = False
    # Needs Booking.counts, which costs the memory of one signature per booking, unless a hook puts
    # something smaller into Booking.kept.
    keeps_counts: ClassVar[bool] = False

    def __init__(self, parameters: PolicyParameters | None = None) -> None:
        self.parameters = parameters or self.Parameters()

    @abstractmethod
    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Choose one of the eligible workers; the snapshot has at least one."""

    def prepare(self) -> None:  # noqa: B027
        """Do ahead of time what would delay the first decisions, such as compiling.

        Called once on a new policy, in a thread, before it is put in force; meanwhile the earlier
        policy decides.
        """

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Explain, with the rule's numbers, why `pick` gave this decision.

        Called later, on a policy with the same parameters and no state: whatever else it needs is
        in `decision.grounds`. `request` no longer has a signature or counts, and `fleet` no
        centroids.
        """
        of = counted(int(fleet.eligible.sum()), "eligible worker")
        said = f"chosen by {self.name} from {of}: {at_load(fleet, decision.worker)}"
        if decision.in_band is None:
            return said
        return f"{said}; considered: {names(fleet, decision.in_band)}"

    def move(self, candidates: Sequence[Booking], fleet: FleetSnapshot) -> Move | None:
        """Choose one of these running requests that should move to another eligible worker.

        Called after a booking or an end, if moves are carried out, with a few requests in turn.
        Pure, like `pick`: the choice may not be carried out. A request that does move is seen as a
        booking that ended, `SUPERSEDED`, and one of a higher attempt, `PINNED`.
        """
        return None

    def on_booked(self, booking: Booking) -> None:  # noqa: B027
        """A request was booked on a worker."""

    def on_signature_completed(self, booking: Booking) -> None:  # noqa: B027
        """The whole signature of a living booking has come; before, `counts` was partial or None.

        Called at most once for each booking that had `awaits_signature` when it was made.
        """

    def on_ended(self, booking: Booking, ended: Ended) -> None:  # noqa: B027
        """A booking ended; `ended` says how, also if its worker is gone."""

    def state(self) -> PolicyState:
        """What the hooks have gathered, as arrays that later calls do not modify.

        Each file of a decision log begins with it. A replay of a file without it has only the
        living bookings to go by.
        """
        return {}

    def restore(self, state: PolicyState) -> None:  # noqa: B027
        """Restore the `state` of a policy of this name; called once, on a new policy."""

    def learned(self) -> PolicyState:
        """What it has learned that outlives bookings, as arrays that later calls do not modify.

        Saved every half minute for the daemon's next start, and when another policy is put in
        force. Must take at most a millisecond.
        """
        return {}

    def relearn(self, learned: PolicyState) -> None:  # noqa: B027
        """Restore what `learned` gave for a policy of this name; called once, before the hooks."""

    def on_reported(self, worker_id: str, report: LoadReport) -> None:  # noqa: B027
        """A worker reported its load; called for accepted reports, in order.

        The requests that it holds are not included (`held` is empty): the bookings have them.
        """
