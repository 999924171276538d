"""`locality-band`, the default: the least loaded of the workers that are nearly the most similar.

Rule, over the eligible workers:

    similarity = centroid of the worker's slot . signature    both of unit length: a cosine, 0 to 1,
                                                              in float64, rounded to 1e-6
    best       = the greatest similarity
    tau        = the parameter or, where `width` is given, width * spread of the partition
    band       = every worker with similarity >= best - tau;
                 if tau > 0 and those are fewer than min_band, the next best join
    choice     = the least loaded of the band; of equals the one that registered first

`tau` is how much similarity balance may cost, in units of cosine. At 0 the most similar worker is
taken (see `locality`); at 2 every worker is in the band, and load alone decides. What a tau means
depends on the partition's transform: the cosines of `sqrt` are close together, so 0.1 admits nearly
every worker. `width` means the same under every transform: it is tau as a share of the spread, 1
less the mean cosine of two centroids, which is about how much less similar a request is to another
slot's centroid than to its own. `min_band` is 2 in the paper: with two workers the less loaded one
is then taken, whatever the similarities. With 1 the most similar worker may be alone in its band.
Load is in flight relative to capacity, in the unit of the parameter `load`.

When a signal is missing:

    no signature, norm zero, no partition,    the least loaded eligible worker, and the reason
    coverage below `min_coverage`             says which; `pick` is not called
    a worker without a slot                   competes by load alone: it is in every band
    a worker's reports are stale              its load is ELDR's own bookings
"""

from typing import Self

import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from eldr_service.core.decision import Decision, FleetSnapshot, Reason, RequestView
from eldr_service.kernels import choose_in_band, compile_ahead
from eldr_service.policies.policy import Policy, SignatureParameters
from eldr_service.policies.words import at_load, names


class LocalityBandParameters(SignatureParameters):
    """Parameters of `locality-band`."""

    exclusive = (("tau", "width"),)

    tau: float | None = Field(
        default=0.1,
        ge=0,
        le=2,
        description="width of the band: similarity that balance may cost, in units of cosine",
    )
    width: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="tau as a share of the partition's spread, 1 less the mean cosine of two"
        " centroids; in place of tau",
    )
    min_band: int = Field(
        default=2,
        ge=1,
        le=64,
        description="fewest workers in the band, the next best beyond tau included; with 2, load"
        " alone decides between two workers",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        """Unset tau when there is a width, so that parameters can be written and read again."""
        if self.width is None:
            return self
        if "tau" in self.model_fields_set and self.tau is not None:
            raise PydanticCustomError("two_widths", "either tau or width, not both")
        self.__dict__["tau"] = None  # the model is frozen
        return self


class LocalityBand(Policy):
    """Picks the least loaded of the eligible workers within tau of the most similar."""

    name = "locality-band"
    description = "the least loaded of the eligible workers within tau of the most similar"
    Parameters = LocalityBandParameters
    parameters: LocalityBandParameters
    needs_signature = True

    def prepare(self) -> None:
        """Compile the kernel of the choice."""
        compile_ahead(choose_in_band)

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the least loaded of the band."""
        tau, min_band = self.tau(fleet.spread), self.parameters.min_band
        assert fleet.quantised is not None
        assert request.signature is not None  # because of needs_signature
        worker, similarity, in_band, about = choose_in_band(
            *fleet.quantised,
            request.signature,
            fleet.slots,
            fleet.eligible,
            fleet.load,
            tau,
            min_band,
        )
        return Decision(
            worker,
            Reason.LOCALITY_BAND,
            similarity,
            in_band,
            near=about,
            grounds=(tau, fleet.spread),
        )

    def tau(self, spread: float) -> float:
        """The band's width in units of cosine, for a partition's spread."""
        if self.parameters.width is not None:
            return self.parameters.width * spread
        assert self.parameters.tau is not None  # the parameters' validator sees to it
        return self.parameters.tau

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say which workers were in the band and why, and which was the least loaded."""
        similarity, in_band = decision.best_known_similarity, decision.in_band
        assert similarity is not None
        assert in_band is not None  # `pick` sets them
        (tau, spread), bound = decision.grounds, fleet.slots >= 0
        best = similarity[fleet.eligible & bound].max(initial=-np.inf)
        similar = in_band & bound & (similarity >= best - tau)
        share = f" (tau is {tau / spread:.3g} of the partition's spread)" if spread > 0 else ""
        within = f"within tau {tau:.3g} of the best similarity {best:.3f}{share}"
        said = [f"{within}: {names(fleet, similar)}"]
        if not similar.any():
            said = ["no eligible worker has a slot"]
        if (following := in_band & bound & ~similar).any():
            low = similarity[following].min()
            said.append(
                f"min_band {self.parameters.min_band} adds the next best:"
                f" {names(fleet, following)} ({low:.3f})"
            )
        if (unbound := in_band & ~bound).any():
            said.append(f"without a slot, so in every band: {names(fleet, unbound)}")
        least = "the only one" if in_band.sum() == 1 else "least loaded of them"
        return "; ".join([*said, f"{least}: {at_load(fleet, decision.worker)}"])
