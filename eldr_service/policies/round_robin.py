"""`round-robin`: each worker in turn.

Rule: the first eligible worker after the one booked last, in order of registration, wrapping
around. A worker that is not eligible is skipped until its next turn. If the worker booked last is
gone, the turn continues from the one booked before it, so that no worker loses its turn.

Reads no signal. The turn advances only with bookings (pinned ones too), never with `pick`.
"""

import numpy as np

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.words import counted
from eldr_service.policies.policy import Policy, PolicyParameters
from eldr_service.policies.state import PolicyState, pack_texts, unpack_texts


class RoundRobin(Policy):
    """Picks the next eligible worker after the one booked last."""

    name = "round-robin"
    description = "each eligible worker in turn, in order of registration"

    def __init__(self, parameters: PolicyParameters | None = None) -> None:
        super().__init__(parameters)
        # Row -> worker id, booked last at the end. Keyed by row it stays as small as the fleet; the
        # id keeps the row's next worker from inheriting the turn.
        self._turns: dict[int, str] = {}

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the next worker in turn."""
        eligible = np.flatnonzero(fleet.eligible)
        last = self._booked_last(fleet)
        later = eligible[eligible > last]
        return Decision(int(later[0] if later.size else eligible[0]), grounds=(last,))

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say which worker had the turn."""
        taken = fleet.worker_ids[decision.worker]
        of = counted(int(fleet.eligible.sum()), "eligible worker")
        (last,) = decision.grounds
        if last < 0:
            return f"none was booked before, so the first of {of}: {taken}"
        return f"next of {of} after {fleet.worker_ids[last]}, which was booked last: {taken}"

    def on_booked(self, booking: Booking) -> None:
        """Advance the turn."""
        self._turns.pop(booking.row, None)
        self._turns[booking.row] = booking.worker_id

    def state(self) -> PolicyState:
        """The turns."""
        rows, ids = list(self._turns), self._turns.values()
        return {"rows": np.array(rows, np.int64), "worker_ids": pack_texts(ids)}

    def restore(self, state: PolicyState) -> None:
        """Continue with the turns."""
        rows, ids = state["rows"].tolist(), unpack_texts(state["worker_ids"])
        self._turns = dict(zip(rows, ids, strict=True))

    def _booked_last(self, fleet: FleetSnapshot) -> int:
        """Index of the worker booked last among those still there; -1 for none."""
        for row, worker_id in reversed(self._turns.items()):
            for index in np.flatnonzero(fleet.rows == row):
                if fleet.worker_ids[index] == worker_id:
                    return int(index)
        return -1
