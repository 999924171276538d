"""The interface of a policy, and the parameters that all policies take."""

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
    """What every policy can be told. Subclass it to add parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()  # names of which one may be given

    load: LoadUnit = Field(
        default="sequences",
        description="what a worker's load counts: sequences in flight, tokens in flight"
        " (prompt and expected output), or KV tokens in use",
    )


class SignatureParameters(PolicyParameters):
    """What every policy that reads signatures can be told."""

    min_coverage: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the prompt's tokens whose experts must be known, 0 to 1;"
        " below it the least loaded worker is taken",
    )


class SeededParameters(PolicyParameters):
    """What every policy that draws by chance can be told.

    Daemons that serve the same workers side by side should have different seeds: equal ones draw
    alike, and pick the same worker at the same time.
    """

    seed: int = Field(default=0, ge=0, description="seed of the draws")


class Move(NamedTuple):
    """A running request that should go on elsewhere.

    Attributes
    ----------
    booking : Booking
    worker : int
        Index into the snapshot.
    gain_seconds : float
        Predicted, for all requests together, less what the move costs.
    """

    booking: Booking
    worker: int
    gain_seconds: float


class Policy(ABC):
    """Picks a decode worker from a request and a snapshot of the fleet.

    Subclasses set `name`, `description` (one line) and, where they take more than `load`,
    `Parameters`; they are found by the entry-point group `eldr.policies`, under the same name.

    `pick` must be pure: it is called for dry runs too, and its answer may be thrown away. The same
    request, snapshot and bookings so far give the same decision; chance comes from `request.number`
    and the seed alone (see `draw`).

    State belongs into the hooks. Those of bookings are called exactly once for each, in the order
    in which bookings begin and end; they see every booking, those that `pick` did not decide too:
    pinned ones, and those of requests without a signature. When a policy is put in force while
    requests flow, `on_booked` is first called for each living booking.

    A policy that raises does not fail the request: the least loaded worker is taken, and the error
    is logged.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    Parameters: ClassVar[type[PolicyParameters]] = PolicyParameters
    # Asks for a signature and a partition: without them `pick` is not called, and the least loaded
    # worker is taken.
    needs_signature: ClassVar[bool] = False
    # Asks for counts of enough coverage: without them `pick` is not called either. There is a
    # signature too where there is a partition.
    needs_counts: ClassVar[bool] = False
    # Wants Booking.counts, which costs the memory of one signature per booking, unless a hook puts
    # something smaller into Booking.kept.
    keeps_counts: ClassVar[bool] = False

    def __init__(self, parameters: PolicyParameters | None = None) -> None:
        self.parameters = parameters or self.Parameters()

    @abstractmethod
    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Choose one of the eligible workers; the snapshot has at least one."""

    def prepare(self) -> None:  # noqa: B027
        """Do ahead what would hold up the first decisions, such as compiling.

        Called once on a new policy, in a thread, before it is put in force; requests go on by the
        earlier one.
        """

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say in words, with the rule's numbers, why `pick` gave this decision.

        Called later, on a policy with the same parameters and nothing gathered: whatever else it
        needs of the moment is in `decision.grounds`. `request` has no signature or counts any more,
        `fleet` no centroids.
        """
        of = counted(int(fleet.eligible.sum()), "eligible worker")
        said = f"chosen by {self.name} from {of}: {at_load(fleet, decision.worker)}"
        if decision.in_band is None:
            return said
        return f"{said}; considered: {names(fleet, decision.in_band)}"

    def move(self, candidates: Sequence[Booking], fleet: FleetSnapshot) -> Move | None:
        """Choose one of these running requests that should go on at another eligible worker.

        Asked after a booking or an end, where moves are carried out, with a few requests by turns.
        Pure, like `pick`: what is chosen may not be done. A request that does move is told of as a
        booking that ended, `SUPERSEDED`, and one of a higher attempt, `PINNED`.
        """
        return None

    def on_booked(self, booking: Booking) -> None:  # noqa: B027
        """A request is booked on a worker."""

    def on_signature_completed(self, booking: Booking) -> None:  # noqa: B027
        """The whole signature of a living booking has come, whose `counts` were a part or none.

        Called once at most for each booking that had `awaits_signature` when it was made.
        """

    def on_ended(self, booking: Booking, ended: Ended) -> None:  # noqa: B027
        """A booking ended; `ended` says how, its worker being gone included."""

    def state(self) -> PolicyState:
        """What the hooks have gathered, as arrays that later calls leave as they are.

        Each file of a decision log begins with it. A replay that begins with a file and finds none
        has only the living bookings to go by.
        """
        return {}

    def restore(self, state: PolicyState) -> None:  # noqa: B027
        """Take over what `state` gave of a policy of this name; called once, on a new one."""

    def learned(self) -> PolicyState:
        """What it has learned that outlives bookings, as arrays that later calls leave as they are.

        Kept every half minute for the next start of the daemon, and when another policy is put in
        force. A millisecond at most.
        """
        return {}

    def relearn(self, learned: PolicyState) -> None:  # noqa: B027
        """Take over what `learned` gave of a policy of this name; called once, before the hooks."""

    def on_reported(self, worker_id: str, report: LoadReport) -> None:  # noqa: B027
        """A worker reported its load; called for reports that count, in their order.

        Which requests it holds is not among it (`held` is empty): their bookings say it.
        """
