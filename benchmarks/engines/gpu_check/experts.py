"""The arithmetic of the toy model's experts, which reads only the weights of experts in use.

On a GPU one Triton kernel, which a CUDA graph can hold, as nothing in it depends on the host. On a
CPU a loop over the distinct experts.
"""

import torch


def expert_matmul(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, per_row: int
) -> torch.Tensor:
    """Multiply each pick's row of `x` by its expert's weights.

    Parameters
    ----------
    x : Tensor, shape [picks / per_row, K]
    weights : Tensor, shape [experts, K, N]
        K and N multiples of 64 on a GPU.
    ids : Tensor of integers, shape [picks]
    per_row : int
        Number of consecutive picks that share a row of `x`.

    Returns
    -------
    Tensor, shape [picks, N]
    """
    return (_looped if x.device.type == "cpu" else _launched)(x, weights, ids, per_row)


def _looped(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, per_row: int
) -> torch.Tensor:
    out = x.new_empty(len(ids), weights.shape[2])
    for expert in ids.unique():
        picks = (ids == expert).nonzero().squeeze(1)
        out[picks] = x[picks // per_row] @ weights[expert]
    return out


def _launched(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, per_row: int
) -> torch.Tensor:
    from benchmarks.engines.gpu_check.kernel import BLOCK, matmul_of_picks

    experts, inner, outer = weights.shape
    by_expert, order = ids.sort()
    bounds = torch.arange(experts + 1, device=ids.device, dtype=ids.dtype)
    starts = torch.searchsorted(by_expert, bounds)
    out = x.new_empty(len(ids), outer)
    matmul_of_picks[(experts, outer // BLOCK)](
        x, weights, order, starts, out, per_row, inner, outer, BLOCK=BLOCK
    )
    return out
