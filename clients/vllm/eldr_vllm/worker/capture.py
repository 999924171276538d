"""Captures the expert ids of each forward pass while the layers run, and copies them to the host.

Every layer writes its ids into one buffer [rows, layers, top_k] on the device, by a plain copy of
fixed shape: it never waits, and a CUDA graph of the layers includes the copies. After the forward
pass, on its stream, the rows and their KV slots are copied to the host. The copies are waited for
when they are read, by which time vLLM has waited for the step's own output.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from eldr_vllm.worker.checks import FailedStepError

if TYPE_CHECKING:  # this module runs with PyTorch alone: `make gpu-check` relies on it
    from vllm.config import VllmConfig

    from eldr_vllm.worker.moe_layers import MoeLayers

PADDING_ROWS = 1_024
"""Rows of a batch beyond the tokens that may be scheduled: graphs and shards round up."""


@dataclass(slots=True)
class HostRows:
    """A step's rows, on their way to the host, in memory that later steps reuse.

    Attributes
    ----------
    slots : Tensor of int64, shape [rows]
        The KV slot of each row; negative for padding.
    experts : Tensor of uint8 or int16, shape [rows, layers, top_k]
    copied : torch.Event, optional
        When both have arrived; None if the device is the host.
    rows : int
    """

    slots: torch.Tensor
    experts: torch.Tensor
    copied: torch.Event | None
    rows: int = 0

    def read(self) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
        """Slots [n] and experts [n, layers, top_k] of the rows that are tokens."""
        if self.copied is not None:
            self.copied.synchronize()
        slots = self.slots[: self.rows].numpy()
        experts = self.experts[: self.rows].numpy()
        real = slots >= 0
        tokens = int(np.count_nonzero(real))
        if real[:tokens].all():  # padding comes last
            return slots[:tokens], experts[:tokens]
        return slots[real], experts[real]


class ExpertRows:
    """Captures the MoE layers of this rank.

    Parameters
    ----------
    layers : MoeLayers
    config : VllmConfig

    Attributes
    ----------
    missing : int
        The value that stands for an expert which no layer gave.
    """

    def __init__(self, layers: "MoeLayers", config: "VllmConfig") -> None:
        self._device = torch.device(config.device_config.device)
        dtype = torch.uint8 if layers.num_ids < 255 else torch.int16
        self.missing = 255 if dtype == torch.uint8 else -1
        shape = (
            config.scheduler_config.max_num_batched_tokens + PADDING_ROWS,
            len(layers),
            layers.top_k,
        )
        self._buffer = torch.full(shape, self.missing, dtype=dtype, device=self._device)
        self._free: list[HostRows] = []
        layers.listen(self._buffer, config)

    def begin(self, tokens: int) -> None:
        """Before a forward pass of `tokens` tokens: mark all of it as missing."""
        self._buffer[:tokens].fill_(self.missing)

    def take(self, slots: torch.Tensor) -> HostRows:
        """After a forward pass: its rows, with their KV slots `slots` [rows].

        Raises
        ------
        FailedStepError
            The batch had more rows than allowed.
        """
        if len(slots) > len(self._buffer):
            raise FailedStepError(f"{len(slots)} rows, at most {len(self._buffer)} were expected")
        host = self._free.pop() if self._free else self._allocate()
        host.rows = len(slots)
        host.slots[: host.rows].copy_(slots, non_blocking=True)
        host.experts[: host.rows].copy_(self._buffer[: host.rows], non_blocking=True)
        if host.copied is not None:
            host.copied.record()
        return host

    def give_back(self, host: HostRows) -> None:
        """Reuse what `take` returned."""
        self._free.append(host)

    def _allocate(self) -> HostRows:
        pinned = self._device.type != "cpu"
        return HostRows(
            torch.empty(len(self._buffer), dtype=torch.int64, pin_memory=pinned),
            torch.empty(self._buffer.shape, dtype=self._buffer.dtype, pin_memory=pinned),
            torch.Event(device=self._device) if pinned else None,
        )


def experts_at(
    wanted: NDArray[np.int64], slots: NDArray[np.int64], experts: NDArray[np.integer]
) -> NDArray[np.integer]:
    """The rows of `experts` whose slots are `wanted`, in that order.

    Raises
    ------
    FailedStepError
        The step had no such row.
    """
    order = np.argsort(slots)
    rows = order.take(np.searchsorted(slots, wanted, sorter=order), mode="clip")
    if not np.array_equal(slots[rows], wanted):
        raise FailedStepError("a token that was scheduled was not computed")
    return experts[rows]
