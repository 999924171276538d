"""The shape of a mixture-of-experts model, as far as the router needs it."""

from dataclasses import dataclass

from eldr_service.core.errors import InvalidArgumentError

# Far above any known model, but too small for a wrong number to make the daemon allocate much.
MAX_LAYERS = 1_024
MAX_EXPERTS = 4_096


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """MoE layers, logical routed experts per layer, experts that a token picks per layer.

    Raises
    ------
    InvalidArgumentError
        A number is outside its range.
    """

    num_layers: int
    num_experts: int
    top_k: int

    def __post_init__(self) -> None:
        for field, limit in (
            ("num_layers", MAX_LAYERS),
            ("num_experts", MAX_EXPERTS),
            ("top_k", self.num_experts),
        ):
            value = getattr(self, field)
            if not 1 <= value <= limit:
                raise InvalidArgumentError(field, f"1 to {limit}", value)

    @property
    def size(self) -> int:
        """Entries of a signature before its layer mask."""
        return self.num_layers * self.num_experts

    def __str__(self) -> str:
        return f"{self.num_layers} layers x {self.num_experts} experts, top-{self.top_k}"
