"""The expert ids of each forward pass, taken while the layers run.

Every layer writes its ids into one buffer [rows, layers, top_k] on the device, by a plain copy of
a fixed shape: nothing of it waits, and a CUDA graph that holds the layers holds the copies too. At
the end of the step the rows are joined with the KV slots that vLLM wrote the same rows to. Rows are
never matched by the scheduler's order, which is not the batch's.
"""

from collections.abc import Sequence
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from eldr_vllm.compat import MoeLayer
from eldr_vllm.guard import Guard, UnsupportedError
from eldr_vllm.worker.own_rows import own_rows

Token = TypeVar("Token")
Rows = tuple[NDArray[np.int64], NDArray[np.integer]]


class ExpertRows(Generic[Token]):
    """Listens to the MoE layers of this rank, on a device that shares the host's memory.

    Parameters
    ----------
    layers : sequence of MoeLayer
        In the model's order; their places here are the layers' indices.
    max_rows : int
        Rows of a batch at most, padding included.
    dp_rank, tp_size : int
    device : torch.device
    guard : Guard
        What runs inside the forward pass must not break it.
    """

    def __init__(
        self,
        layers: Sequence[MoeLayer],
        max_rows: int,
        dp_rank: int,
        tp_size: int,
        device: torch.device,
        guard: Guard,
    ) -> None:
        first = layers[0]
        dtype = torch.uint8 if first.num_experts <= 256 else torch.int16
        self._buffer = torch.zeros((max_rows, len(layers), first.top_k), dtype=dtype, device=device)
        self._rank = dp_rank, tp_size
        for index, layer in enumerate(layers):
            layer.bind(partial(guard.run, self._store, index))

    def collect(self, slots: torch.Tensor | None, token: Token) -> list[tuple[Token, Rows]]:
        """Steps whose rows are there: (token, (slots int64 [n], experts [n, layers, top_k])).

        `token` stands for the step that has just run, `slots` for its rows. The arrays hold until
        the next forward pass.
        """
        if slots is None:
            slots = torch.empty(0, dtype=torch.int64)
        return [(token, self._join(slots.numpy(), self._buffer[: slots.shape[0]].numpy()))]

    def _store(self, index: int, topk_ids: torch.Tensor) -> None:
        rows = own_rows(topk_ids, *self._rank)
        self._buffer[: rows.shape[0], index].copy_(rows)

    @staticmethod
    def _join(slots: NDArray[np.int64], experts: NDArray[np.integer]) -> Rows:
        if len(experts) < len(slots):
            raise UnsupportedError(f"a batch of {len(slots)} rows, {len(experts)} at most")
        real = slots >= 0
        return (slots, experts) if real.all() else (slots[real], experts[real])


class DeviceExpertRows(ExpertRows[Token]):
    """The same on a GPU: one small copy a step to the host, which is waited for a step later.

    The copy runs on the forward pass's own stream, behind it. Two host buffers take turns, so that
    the step that is read is never the one being written. Not verified on a GPU (see README).
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._host = [
            (
                torch.empty(self._buffer.shape[0], dtype=torch.int64, pin_memory=True),
                torch.empty(self._buffer.shape, dtype=self._buffer.dtype, pin_memory=True),
                torch.cuda.Event(),
            )
            for _ in range(2)
        ]
        self._turn = 0
        self._pending: tuple[Token, int, int] | None = None  # token, rows, host buffer

    def collect(self, slots: torch.Tensor | None, token: Token) -> list[tuple[Token, Rows]]:
        """As in ExpertRows, one step late."""
        before = self._pending
        rows = 0 if slots is None else slots.shape[0]
        if rows:
            host_slots, host_experts, copied = self._host[self._turn]
            host_slots[:rows].copy_(slots, non_blocking=True)
            host_experts[:rows].copy_(self._buffer[:rows], non_blocking=True)
            copied.record()
        self._pending = token, rows, self._turn
        self._turn ^= 1
        if before is None:
            return []
        token, rows, turn = before
        host_slots, host_experts, copied = self._host[turn]
        if rows:
            copied.synchronize()  # of the step before this one: long past
        return [(token, self._join(host_slots[:rows].numpy(), host_experts[:rows].numpy()))]


def experts_at(
    wanted: NDArray[np.int64], slots: NDArray[np.int64], experts: NDArray[np.integer]
) -> NDArray[np.integer]:
    """The rows of `experts` whose slots are `wanted`, in that order.

    Raises
    ------
    UnsupportedError
        The step had no such row.
    """
    order = np.argsort(slots)
    rows = order.take(np.searchsorted(slots, wanted, sorter=order), mode="clip")
    if not np.array_equal(slots[rows], wanted):
        raise UnsupportedError("a token that was scheduled was not computed")
    return experts[rows]
