"""`marginal-cost` with the experts that decodes actually use: the gain of perfect prediction."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.experts import Experts, ExpertsInUse
from eldr_service.policies.marginal_cost import MarginalCost, MarginalCostParameters
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create

Use = NDArray[np.float32]


class TrueUse:
    """Share of a decode's tokens that use each expert, looked up by its prefill's counts."""

    def __init__(self, workload: Workload, output_tokens: int) -> None:
        self._by_prefill: dict[bytes, Use] = {}
        for i in range(len(workload.driven)):
            decode = workload.decode_counts(i, output_tokens).counts
            prefill = workload.prefill_counts(i).counts
            used = decode.ravel() / output_tokens
            self._by_prefill[counts_key(prefill)] = used.astype(np.float32)

    def of(self, prefill: Counts) -> Use:
        return self._by_prefill[counts_key(prefill)]


def counts_key(prefill: Counts) -> bytes:
    """A key that is equal for equal counts."""
    return prefill.astype(np.uint32).tobytes()


class KnownExperts(ExpertsInUse):
    """Knows the use of arriving requests, of held ones, or of both."""

    def __init__(self, use: TrueUse, *, arriving: bool, held: bool) -> None:
        super().__init__(MarginalCostParameters().min_coverage)
        self._use, self._arriving, self._held = use, arriving, held

    def predict(self, counts: Counts, top_k: int) -> tuple[Experts, Use]:
        experts, probabilities = super().predict(counts, top_k)
        return experts, self._use.of(counts) if self._arriving else probabilities

    def _prediction_of(self, counts: Counts | None) -> Use:
        if self._held and counts is not None:
            return self._use.of(counts)
        return super()._prediction_of(counts)


def knowing(
    use: TrueUse, options: Mapping[str, str] | None = None, *, arriving: bool, held: bool
) -> Policy:
    policy = create(MarginalCost.name, options or {})
    assert isinstance(policy, MarginalCost)
    policy.experts = KnownExperts(use, arriving=arriving, held=held)
    return policy
