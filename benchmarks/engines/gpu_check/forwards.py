"""The three ways in which an engine runs a model: eager, in pieces, as one graph.

Each mode with graphs has them for a few numbers of rows; a batch is padded to the next. Graphs
include whatever the routers' listeners do when they are captured.
"""

from collections.abc import Callable

import torch

from benchmarks.engines.gpu_check.toy import ToyMoe

Forward = Callable[[torch.Tensor], object]

EAGER, PIECES, FULL = MODES = ("eager", "graphs in pieces", "full graphs")


def forward(mode: str, model: ToyMoe, sizes: tuple[int, ...]) -> Forward:
    """A function of tokens [rows] on the model's device; for graphs, rows is one of `sizes`."""
    if mode == EAGER:
        return model.forward
    graphed = {rows: (_Pieces if mode == PIECES else _Full)(model, rows) for rows in sizes}
    return lambda tokens: graphed[len(tokens)](tokens)


def no_graphs(device: torch.device) -> str:
    """Why there are no CUDA graphs; empty if there are."""
    return "" if device.type == "cuda" else f"a {device.type} has no CUDA graphs"


def _captured(work: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """The graph of `work`, and the tensor that its result is written to."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are compiled before the capture
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


class _Full:
    def __init__(self, model: ToyMoe, rows: int) -> None:
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=model.device)
        self._graph, self._result = _captured(lambda: model.forward(self._tokens))

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._result


class _Pieces:
    """One graph per layer; the stand-in for attention runs eagerly between them."""

    def __init__(self, model: ToyMoe, rows: int) -> None:
        self._model = model
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=model.device)
        self._hidden = model.start(self._tokens)
        self._graphs = [
            _captured(lambda layer=layer: model.layer(layer, self._tokens, self._hidden))
            for layer in range(model.size.layers)
        ]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self._tokens.copy_(tokens)
        hidden = self._model.start(self._tokens)
        for graph, result in self._graphs:
            self._hidden.copy_(self._model.between(hidden))
            graph.replay()
            hidden = result
        return hidden
