"""What the tensor-parallel ranks of an engine must agree on."""

import torch.distributed
from vllm.distributed.parallel_state import get_tp_group


def all_ranks(can: bool) -> bool:
    """Whether every tensor-parallel rank can; all of them must call this.

    Where a batch's shards are gathered, a rank that does not listen would hang those that do.
    """
    group = get_tp_group()
    said = [can] * group.world_size
    if group.world_size > 1:
        torch.distributed.all_gather_object(said, can, group=group.cpu_group)
    return all(said)
