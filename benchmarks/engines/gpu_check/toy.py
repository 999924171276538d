"""A small MoE with known routing that the shim's own capture can listen to.

A token's experts follow from the token alone, by a table of scores, so rounding cannot change
them. What the experts compute still feeds the next layer, and reads their weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.engines.gpu_check.experts import expert_matmul

Listener = Callable[[torch.Tensor], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Shapes of the model; a batch has at most `tokens`; graphs are made for `graph_sizes`."""

    layers: int
    experts: int
    top_k: int
    hidden: int
    width: int
    tokens: int
    graph_sizes: tuple[int, ...]
    vocabulary: int = 4096

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert in one layer."""
        return 2 * self.hidden * self.width * (2 if self.hidden > 256 else 4)


ON_GPU = Size(
    layers=4,
    experts=128,
    top_k=8,
    hidden=2048,
    width=768,
    tokens=1024,
    graph_sizes=(8, 16, 32, 64, 128, 256),
)
ON_CPU = Size(
    layers=3, experts=32, top_k=4, hidden=128, width=256, tokens=256, graph_sizes=(8, 16, 32, 64)
)


class Router:
    """One layer's router: like vLLM's, it passes the ids it has chosen to a listener.

    Attributes
    ----------
    listener, log : callable (Tensor of int32, shape [rows, top_k]), optional
        The shim's, and the one that it is checked against.
    """

    def __init__(self, scores: torch.Tensor, top_k: int) -> None:
        self.scores, self._top_k = scores, top_k
        self.listener: Listener | None = None
        self.log: Listener | None = None

    def route(self, tokens: torch.Tensor) -> torch.Tensor:
        """Experts [rows, top_k] of `tokens` [rows]."""
        ids = self.scores[tokens].topk(self._top_k).indices.to(torch.int32)
        for told in (self.log, self.listener):
            if told is not None:
                told(ids)
        return ids


class ToyMoe:
    """The model; `start`, then for each layer `between` and `layer`, are a forward pass."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device = size, device
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        drawn = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=drawn, device=device, dtype=dtype)

        self._embeddings = normal(size.vocabulary, size.hidden)
        self._up = [normal(size.experts, size.hidden, size.width) for _ in range(size.layers)]
        self._down = [normal(size.experts, size.width, size.hidden) for _ in range(size.layers)]
        self.routers = []
        for _ in range(size.layers):
            noise = torch.rand(
                size.vocabulary, size.experts, generator=drawn, device=device
            ).argsort()
            self.routers.append(Router(noise.float(), size.top_k))  # no two scores are equal

    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states [rows, hidden] of `tokens` [rows]."""
        return self._embeddings[tokens]

    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        """A stand-in for attention, where compiled models are split: it mixes the rows."""
        return hidden + hidden.mean(dim=0)

    def layer(self, index: int, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Run one MoE layer."""
        ids = self.routers[index].route(tokens).flatten()
        wide = expert_matmul(_normed(hidden), self._up[index], ids, self.size.top_k)
        told = expert_matmul(_normed(wide.relu()), self._down[index], ids, 1)
        return hidden + told.view(len(tokens), self.size.top_k, -1).mean(dim=1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run the whole model, eager."""
        hidden = self.start(tokens)
        for index in range(self.size.layers):
            hidden = self.layer(index, tokens, self.between(hidden))
        return hidden

    def silence(self) -> None:
        """Remove all listeners and logs."""
        for router in self.routers:
            router.listener = router.log = None


def _normed(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(rows, rows.shape[-1:]) * rows.shape[-1] ** -0.5


class ToyLayers:
    """What `ExpertRows` needs from a model's MoE layers; `fault` changes what they report.

    Parameters
    ----------
    model : ToyMoe
    fault : callable (layer, ids) -> ids or None, optional
        Returns None for a layer that reports nothing.
    """

    def __init__(self, model: ToyMoe, fault: Callable[[int, torch.Tensor], Any] | None = None):
        self._routers: Sequence[Router] = model.routers
        self._fault = fault
        self.num_experts = model.size.experts
        self.num_ids = 2 * model.size.experts  # as with replicas: ids beyond the model's can occur
        self.top_k = model.size.top_k

    def __len__(self) -> int:
        return len(self._routers)

    def listen(self, buffer: torch.Tensor, config: Any) -> None:
        """Have the routers copy their ids to `buffer` [rows, layers, top_k]."""
        for layer, router in enumerate(self._routers):
            router.listener = self._copies(buffer, layer)

    def _copies(self, buffer: torch.Tensor, layer: int) -> Listener:
        def copy(ids: torch.Tensor) -> None:
            told = ids if self._fault is None else self._fault(layer, ids)
            if told is not None:
                buffer[: len(told), layer].copy_(told)

        return copy


def config_of(model: ToyMoe) -> SimpleNamespace:
    """The part of vLLM's configuration that `ExpertRows` reads."""
    return SimpleNamespace(
        device_config=SimpleNamespace(device=model.device),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=model.size.tokens),
    )
