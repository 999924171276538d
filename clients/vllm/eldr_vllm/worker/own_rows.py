"""Which rows of a layer's expert ids are this data-parallel rank's own."""

import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.forward_context import get_forward_context

from eldr_vllm.guard import UnsupportedError


def own_rows(topk_ids: torch.Tensor, dp_rank: int, tp_size: int) -> torch.Tensor:
    """Rows [tokens of this rank, top_k] out of what a router saw, in the batch's order.

    The four layouts are those that `RoutedExpertsCapturer.capture` in vLLM documents. Without data
    parallelism every row is this rank's. In the last one all tensor-parallel ranks must come here,
    as their shards are gathered.

    Raises
    ------
    UnsupportedError
        The number of rows fits none of the layouts.
    """
    metadata = get_forward_context().dp_metadata
    if metadata is None:
        return topk_ids
    tokens = metadata.num_tokens_across_dp_cpu.tolist()
    own, rows = tokens[dp_rank], topk_ids.shape[0]
    if rows == sum(tokens):  # all ranks' tokens, one rank after the other
        start = sum(tokens[:dp_rank])
        return topk_ids[start : start + own]
    if rows == own:  # gathered later, inside the kernel
        return topk_ids
    shards = getattr(metadata, "local_sizes", None)
    if shards is not None and rows == sum(shards):  # padded shards of every tensor-parallel rank
        start = sum(shards[: dp_rank * (len(shards) // len(tokens))])
        return topk_ids[start : start + own]
    if tp_size > 1 and rows == -(-own // tp_size):  # sequence parallel: this rank's shard
        return get_tp_group().all_gather(topk_ids, dim=0)[:own]
    raise UnsupportedError(f"{rows} rows of expert ids fit no layout of {tokens} tokens a rank")
