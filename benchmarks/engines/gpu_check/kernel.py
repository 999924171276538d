"""The Triton kernel: one program per expert and 64 columns; without picks it reads nothing."""

import triton
import triton.language as tl

BLOCK = 64


@triton.jit
def matmul_of_picks(x, weights, order, starts, out, per_row, inner, outer, BLOCK: tl.constexpr):  # noqa: N803
    """`order` has the picks sorted by expert, expert e's in order[starts[e] : starts[e + 1]]."""
    expert = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    depths = tl.arange(0, BLOCK)
    end = tl.load(starts + expert + 1)
    for begin in range(tl.load(starts + expert), end, 16):
        places = begin + tl.arange(0, 16)
        real = places < end
        picks = tl.load(order + places, mask=real, other=0)
        total = tl.zeros((16, BLOCK), tl.float32)
        for depth in range(0, inner, BLOCK):
            rows = x + (picks // per_row)[:, None] * inner + depth + depths[None, :]
            tile = weights + (expert * inner + depth + depths)[:, None] * outer + columns[None, :]
            total += tl.dot(tl.load(rows, mask=real[:, None], other=0.0), tl.load(tile))
        where = out + picks[:, None] * outer + columns[None, :]
        tl.store(where, total.to(out.dtype.element_ty), mask=real[:, None])
