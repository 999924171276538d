"""`locality`: the worker whose requests use the most similar experts, whatever its load.

Rule: of the eligible workers with the greatest similarity, the least loaded; of equals, the one
that registered first. This is `locality-band` with tau 0, where balance does not count.

    similarity = centroid of the worker's slot . signature    (cosine, 0 to 1, rounded to 1e-6)

Without a signature or a partition, or below `min_coverage`, the least loaded eligible worker is
taken, and the reason says so. A worker without a slot competes by load alone: it counts as one of
the most similar.
"""

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.kernels import choose_in_band, compile_ahead
from eldr_service.policies.policy import Policy, SignatureParameters
from eldr_service.policies.words import least_loaded_of


class Locality(Policy):
    """Picks the most similar eligible worker."""

    name = "locality"
    description = "the eligible worker most similar to the request, whatever its load"
    Parameters = SignatureParameters
    needs_signature = True

    def prepare(self) -> None:
        """Compile the kernel of the choice."""
        compile_ahead(choose_in_band)

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the most similar."""
        assert fleet.quantised is not None
        assert request.signature is not None  # because of needs_signature
        worker, similarity, in_band, about = choose_in_band(
            *fleet.quantised, request.signature, fleet.slots, fleet.eligible, fleet.load, 0.0, 1
        )
        return Decision(worker, similarity=similarity, in_band=in_band, near=about)

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say which workers were the most similar."""
        similarity, most_similar = decision.best_known_similarity, decision.in_band
        assert similarity is not None
        assert most_similar is not None  # `pick` sets them
        best = similarity[fleet.eligible & (fleet.slots >= 0)]
        if not best.size:
            taken = least_loaded_of(fleet, fleet.eligible, decision.worker)
            return f"no eligible worker has a slot: {taken}"
        taken = least_loaded_of(fleet, most_similar, decision.worker)
        unbound = ", or without a slot" if (most_similar & (fleet.slots < 0)).any() else ""
        return f"with the best similarity {best.max():.3f}{unbound}: {taken}"
