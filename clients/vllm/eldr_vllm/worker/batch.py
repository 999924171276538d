"""A step's batch, as vLLM's model runners present it to a connector."""

from collections.abc import Mapping
from typing import Any

import torch
from vllm.forward_context import get_forward_context, is_forward_context_available


class Batch:
    """What is known about the rows of one forward pass; it grows with each call of the connector.

    Runner V1 has the slots in the forward context. V2 does too, except with full CUDA graphs, where
    they come with the attention metadata; it leaves the context before `start_load_kv`, and gives
    the order of the requests.

    Parameters
    ----------
    layer : str
        The attention layer whose slots are wanted.

    Attributes
    ----------
    slots : Tensor of int64, shape [rows], optional
        The KV slot of each row, negative for padding; on the device.
    order : sequence of int, optional
        The requests in row order, by their indices in the scheduler's output.
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self.slots: torch.Tensor | None = None
        self.order: list[int] | None = None

    def look(self, load_kwargs: Mapping[str, Any]) -> None:
        """Collect what is there; `load_kwargs` are those of `start_load_kv`."""
        if is_forward_context_available():
            self._take(get_forward_context().slot_mapping, lambda slots: slots)
        self._take(load_kwargs.get("attn_metadata"), lambda metadata: metadata.slot_mapping)
        if "request_ids" in load_kwargs:
            scheduled = load_kwargs["scheduler_output"].num_scheduled_tokens
            places = {name: place for place, name in enumerate(scheduled)}
            self.order = [places[name] for name in load_kwargs["request_ids"]]

    def _take(self, by_layer: Any, slots_of: Any) -> None:
        """Dual batch overlap has one such mapping per part of the batch."""
        parts = by_layer if isinstance(by_layer, list) else [by_layer]
        if self.slots is None and all(part and self._layer in part for part in parts):
            slots = [slots_of(part[self._layer]) for part in parts]
            self.slots = slots[0] if len(slots) == 1 else torch.cat(slots)
