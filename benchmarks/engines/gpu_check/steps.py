"""Random steps, as a scheduler would make them, and how the shim's capture processes them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from eldr_vllm.worker.capture import ExpertRows, HostRows
from eldr_vllm.worker.checks import check_experts, check_slots
from numpy.typing import NDArray

from benchmarks.engines.gpu_check.forwards import Forward
from benchmarks.engines.gpu_check.toy import ToyMoe

BLOCK = 16
IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one forward pass, on the device, padded to the size of a graph.

    Attributes
    ----------
    tokens : Tensor of int64, shape [padded]
    slots : Tensor of int64, shape [padded]
        -1 for padding.
    rows : int
        Rows that are tokens.
    spans : ndarray of int64, shape [requests, 3]
        First slot, last slot and tokens of each request, in the scheduler's order.
    order : list of int
        The requests in row order.
    """

    tokens: torch.Tensor
    slots: torch.Tensor
    rows: int
    spans: NDArray[np.int64]
    order: list[int]


def random_steps(model: ToyMoe, count: int, seed: int) -> list[Step]:
    """Steps of random sizes: most requests have one row, some a longer prompt chunk."""
    rng = np.random.default_rng(seed)
    return [_random_step(model, rng) for _ in range(count)]


def _random_step(model: ToyMoe, rng: np.random.Generator) -> Step:
    sizes = np.array(model.size.graph_sizes)
    rows = int(rng.integers(2, sizes[-1] + 1))
    padded = int(sizes[np.searchsorted(sizes, rows)])
    lengths: list[int] = []
    while sum(lengths) < rows:
        longest = rows - sum(lengths)
        wanted = 1 if rng.random() < 0.7 else int(rng.integers(2, 40))
        lengths.append(min(wanted, longest))
    blocks = iter(rng.permutation(rows))
    pieces = [_slots(blocks, length, int(rng.integers(BLOCK))) for length in lengths]
    spans = np.array([(piece[0], piece[-1], len(piece)) for piece in pieces], np.int64)
    order = rng.permutation(len(pieces)).tolist()
    slots = np.full(padded, -1, np.int64)
    slots[:rows] = np.concatenate([pieces[place] for place in order])
    tokens = np.zeros(padded, np.int64)
    tokens[:rows] = rng.integers(model.size.vocabulary, size=rows)

    def there(values: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values).to(model.device)

    return Step(there(tokens), there(slots), rows, spans, order)


def _slots(blocks: Iterator[int], length: int, offset: int) -> NDArray[np.int64]:
    """Slots of a run of tokens that starts at `offset` of a block and continues in others."""
    places = offset + np.arange(length)
    taken = np.array([next(blocks) for _ in range(places[-1] // BLOCK + 1)])
    return taken[places // BLOCK] * BLOCK + places % BLOCK


class Capture:
    """Runs steps through a model, each captured by the shim's `ExpertRows`."""

    def __init__(self, model: ToyMoe, rows: ExpertRows, forward: Forward) -> None:
        self._rows, self._forward = rows, forward
        self._num_experts = model.size.experts
        # One tensor for all steps, as in model runners: each copy must be of its own step.
        self._slots = torch.full((model.size.tokens,), -1, dtype=torch.int64, device=model.device)

    def submit(self, step: Step) -> HostRows:
        """Submit a step without waiting for the device."""
        slots = self._slots[: len(step.slots)]
        slots.copy_(step.slots)
        self._rows.begin(step.rows)
        self._forward(step.tokens)
        return self._rows.take(slots)

    def read(self, step: Step, host: HostRows) -> NDArray[np.integer]:
        """Experts [rows, layers, top_k] of the step, in slot order.

        Raises
        ------
        FailedStepError
            The shim's own checks noticed a fault.
        """
        slots, experts = host.read()
        check_slots(slots, step.rows, step.spans, step.order)
        check_experts(experts, self._num_experts, self._rows.missing)
        return experts.copy()

    def give_back(self, host: HostRows) -> None:
        """Return host memory whose contents are no longer needed."""
        self._rows.give_back(host)

    def run(self, steps: Sequence[Step]) -> tuple[list[NDArray[np.integer]], int]:
        """Experts of each step, two in flight; and how often the first still ran when read."""
        flying: deque[tuple[Step, HostRows]] = deque()
        found, ahead = [], 0
        for step in [*steps, None]:
            if step is not None:
                flying.append((step, self.submit(step)))
            while flying and (step is None or len(flying) == IN_FLIGHT):
                earlier, host = flying.popleft()
                ahead += host.copied is not None and not host.copied.query()
                found.append(self.read(earlier, host))
                self.give_back(host)
        return found, ahead
