"""Predicts the experts that workers' batches use, from the bookings that they hold."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.policies.batches import Batches
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.state import PolicyState, inside, pack_texts, unpack_texts, within

LEARNING_BYTES = 8 << 20
"""For raw prefills of living bookings; beyond it, bookings that finish teach nothing."""


@dataclass(slots=True)
class Experts:
    """What is known about experts, for one geometry.

    `held` has what each living booking added to its worker's batch: 3 bits per expert of a layer.
    `learning` counts the bookings whose raw prefill is kept, to learn from when they end.
    """

    prediction: ExpertPrediction
    batches: Batches
    held: dict[tuple[str, int], PackedUse] = field(default_factory=dict)
    learning: int = 0

    @classmethod
    def of(cls, counts: Counts, top_k: int) -> "Experts":
        """The state before anything is known."""
        return cls(ExpertPrediction(counts.shape, top_k), Batches(counts.size))

    def state(self) -> PolicyState:
        """All of it, for `restored`."""
        # What bookings hold is never written to, so it, the bulk, is not copied.
        held = {str(i): use.data for i, use in enumerate(self.held.values())}
        return {
            **self.learned(),
            "requests": pack_texts(request for request, _ in self.held),
            "attempts": np.array([attempt for _, attempt in self.held], np.int64),
            "learns": np.array([use.learns for use in self.held.values()], np.bool_),
            **within("held", held),
            **within("batches", self.batches.state()),
        }

    def learned(self) -> PolicyState:
        """What outlives the bookings, for `relearned`."""
        geometry = np.array([*self.prediction.shape, self.prediction.top_k])
        return {"geometry": geometry, **within("prediction", self.prediction.state())}

    @classmethod
    def restored(cls, state: PolicyState) -> "Experts":
        """The inverse of `state`."""
        made = cls.relearned(state)
        made.batches.restore(inside(state, "batches"))
        held = inside(state, "held")
        requests = unpack_texts(state["requests"])
        keys, shape = zip(requests, state["attempts"].tolist(), strict=True), made.prediction.shape
        for i, (key, learns) in enumerate(zip(keys, state["learns"].tolist(), strict=True)):
            made.held[key] = PackedUse(held[str(i)], shape, learns)
            made.learning += learns
        return made

    @classmethod
    def relearned(cls, learned: PolicyState) -> "Experts":
        """The inverse of `learned`, without bookings."""
        layers, experts, top_k = learned["geometry"].tolist()
        made = cls(ExpertPrediction((layers, experts), top_k), Batches(layers * experts))
        made.prediction.restore(inside(learned, "prediction"))
        return made

    def fits(self, counts: Counts, top_k: int) -> bool:
        """Whether it is for the geometry of these counts."""
        return self.prediction.shape == counts.shape and self.prediction.top_k == top_k

    def active(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distinct experts per layer that a step of each row's batch uses."""
        self.batches.reach(int(rows.max(initial=-1)) + 1)
        return self.batches.active(rows) / self.prediction.shape[0]


class ExpertsInUse:
    """Follows a model's bookings; starts over when counts have another geometry.

    Parameters
    ----------
    min_coverage : float
        A booking with less coverage, or without counts, is treated as the mean request.

    Attributes
    ----------
    known : Experts or None
        None before any counts.
    """

    def __init__(self, min_coverage: float) -> None:
        self.known: Experts | None = None
        self._min_coverage = min_coverage
        self._predicted: tuple[Counts, NDArray[np.float32]] | None = None

    def predict(self, counts: Counts, top_k: int) -> tuple[Experts, NDArray[np.float32]]:
        """The experts known, and what a request with these counts would use; changes nothing."""
        experts = self._known_for(counts, top_k)
        probabilities = experts.prediction.predict(counts)
        self._predicted = counts, probabilities  # the booking needs it again
        return experts, probabilities

    def used_by(self, booking: Booking) -> PackedUse | None:
        """What a living booking is predicted to use; None if there is no prediction."""
        return self.known.held.get(booking.key) if self.known else None

    def put_in(self, booking: Booking) -> None:
        """Add a request to its worker's batch, and its prefill to the mean."""
        counts = booking.counts
        if counts is not None and booking.coverage >= self._min_coverage:
            self.known = self._known_for(counts, booking.top_k)
        else:
            counts = None
        if self.known is not None:
            self._hold(booking, self._prediction_of(counts), learns=counts is not None)
            if counts is not None and not booking.awaits_signature:
                self.known.prediction.saw_prefill(counts)  # a partial one would count as a whole
            self._predicted = None

    def _hold(self, booking: Booking, probabilities: NDArray[np.float32], learns: bool) -> None:
        """Add the request to its worker's batch, and keep no more than is needed."""
        experts, counts = self.known, booking.counts
        assert experts is not None
        if counts is not None and not experts.fits(counts, booking.top_k):
            counts = None
        use = PackedUse.of(probabilities, counts, experts.prediction.shape)
        experts.batches.add(booking.row, use, booking.num_sequences)
        experts.held[booking.key] = use
        if counts is not None:
            use.learns = learns and experts.learning * counts.nbytes < LEARNING_BYTES
            experts.learning += use.learns
            if not use.learns:
                booking.kept = use

    def put_in_again(self, booking: Booking) -> None:
        """Predict a request's experts again, from its complete prefill."""
        self._take_out(booking)
        self.put_in(booking)

    def take_out(self, booking: Booking) -> None:
        """Remove a request from its worker's batch, and learn from what its decode used."""
        use = self._take_out(booking)
        experts, decode = self.known, booking.decode_counts
        if not (use and use.learns and experts and decode is not None):
            return
        prefill = booking.counts
        if (
            prefill is not None
            and booking.coverage >= self._min_coverage
            and experts.fits(prefill, booking.top_k)
            and decode.shape == prefill.shape
        ):
            experts.prediction.saw_decode(prefill, decode)

    def _take_out(self, booking: Booking) -> PackedUse | None:
        experts = self.known
        use = experts.held.pop(booking.key, None) if experts else None
        if experts and use:
            experts.batches.add(booking.row, use, -booking.num_sequences)
            experts.learning -= use.learns
            self._predicted = None  # it is out of date now
        return use

    def _prediction_of(self, counts: Counts | None) -> NDArray[np.float32]:
        """The last result of `predict` if it was for these counts, else a new prediction."""
        assert self.known is not None
        if counts is not None and self._predicted is not None:
            asked, probabilities = self._predicted
            if asked.shape == counts.shape and asked.tobytes() == counts.tobytes():
                return probabilities
        return self.known.prediction.predict(counts)

    def _known_for(self, counts: Counts, top_k: int) -> Experts:
        """What is known for the counts' geometry; starts over if the geometry changed."""
        if self.known is None or not self.known.fits(counts, top_k):
            return Experts.of(counts, top_k)
        return self.known
