"""Two collectives that vLLM's communicator for the CPU lacks, and data parallelism needs."""

import inspect

import torch
import torch.distributed as dist
from vllm.distributed.device_communicators.base_device_communicator import DeviceCommunicatorBase


def complete() -> None:
    """Give them to vLLM's communicators, where they still are not implemented."""
    for collective in (all_gatherv, reduce_scatterv):
        theirs = getattr(DeviceCommunicatorBase, collective.__name__)
        if "NotImplementedError" in inspect.getsource(theirs):
            setattr(DeviceCommunicatorBase, collective.__name__, collective)


def all_gatherv(self, input_, dim=0, sizes=None):
    """Rows of all ranks, one after the other; `sizes` are how many each has."""
    if isinstance(input_, (list, tuple)):
        return [all_gatherv(self, each, dim, sizes) for each in input_]
    sizes = sizes or [len(input_)] * self.world_size
    padded = input_.new_zeros((max(sizes), *input_.shape[1:]))
    padded[: len(input_)] = input_
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded, group=self.device_group)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])


def reduce_scatterv(self, input_, dim=-1, sizes=None):
    """This rank's rows of the sum over all ranks."""
    sizes = sizes or [len(input_) // self.world_size] * self.world_size
    total = input_.contiguous().clone()
    dist.all_reduce(total, group=self.device_group)
    start = sum(sizes[: self.rank_in_group])
    return total[start : start + sizes[self.rank_in_group]].clone()
