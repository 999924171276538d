"""What a decode step costs, as a function of the distinct experts that its batch activates."""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Coefficients = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class StepCost:
    """A step's time, summed over the MoE layers; the same line for every layer.

    ``per_layer_us + per_expert_us * active experts + per_sequence_us * batch size`` a layer.

    Attributes
    ----------
    name : str
    per_layer_us : float
        Microseconds of a layer that are there with any batch.
    per_expert_us : float
        Microseconds to read one more distinct expert's weights.
    per_sequence_us : float
        Microseconds a layer for one more sequence in the batch.

    Raises
    ------
    ValueError
        When a step would take no time: virtual time would stand still.
    """

    name: str
    per_layer_us: float
    per_expert_us: float
    per_sequence_us: float = 0.0

    def __post_init__(self) -> None:
        if min(self.coefficients) < 0 or not 0 < sum(self.coefficients) < np.inf:
            raise ValueError(f"{self.name}: costs must be finite, none negative, one positive")

    @property
    def coefficients(self) -> Coefficients:
        """Microseconds (per layer, per expert, per sequence), as `step_seconds` takes them."""
        return self.per_layer_us, self.per_expert_us, self.per_sequence_us

    def step_seconds(self, active_experts: NDArray[np.integer], batch_size: int) -> float:
        """Seconds of one step; active_experts [layers] are the distinct experts of each layer."""
        total = int(active_experts.sum())
        return float(step_seconds(self.coefficients, len(active_experts), total, batch_size))


@numba.njit(cache=True)
def step_seconds(cost: Coefficients, layers: int, active_experts: int, batch_size: int) -> float:
    """Seconds of one step; active_experts is the sum over the layers."""
    per_layer, per_expert, per_sequence = cost
    return 1e-6 * (layers * (per_layer + per_sequence * batch_size) + per_expert * active_experts)


BUILT_IN_COSTS = {
    cost.name: cost
    for cost in (
        StepCost("qwen3-30b-a3b-h200", per_layer_us=19.2, per_expert_us=2.20),
        StepCost("gpt-oss-120b-h200", per_layer_us=38.3, per_expert_us=4.87),
        StepCost("gemma-4-26b-a4b-h200", per_layer_us=24.1, per_expert_us=2.70),
    )
}
"""Lines through one MoE layer's latency as NVIDIA's aiconfigurator (Apache-2.0) measured it on an
H200, rows with balanced routing; no row is further off than 5%. Attention, dense parts and the KV
cache are not in them, so they overstate how much of a step depends on experts."""
