"""Stores a KV block's counts exactly in a quarter of their plain size, and sums them fast.

In one layer the picks of a block of T tokens spread over E experts. Written as "stars and bars", a
one for each pick and a zero to end each expert, they take T * k + E - 1 bits: 255 for 16 tokens,
top-8 and 128 experts, against 128 plain bytes. It is exact for every distribution of the picks.

Such a code is read one byte at a time: a table gives the counts that the byte's ones and zeros
stand for, eight of them in one machine word, which is stored at the current expert. Only the last
expert of a byte may continue in the next one, so its count is carried over. Rows of 16-bit counts
(more than 255 picks per layer) are read four bits at a time in the same way.

If plain counts would take no more room than the code, they are kept plain (`words` is 0).
"""

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import from_dtype, int32, int64, njit, types, uint8, uint16, uint32, uint64
from numba.extending import intrinsic
from numpy.typing import NDArray

from eldr_vllm.compiling import kernel, readonly

BLOCK = np.dtype([("held", np.int32), ("row", np.int32), ("generation", np.uint32)])
"""What is known about a block.

held : tokens it holds, from its offset 0 on; UNKNOWN if they are not to be trusted
row : where its counts lie plain while it is being written; negative once encoded
generation : changes whenever its contents change
"""
Counts = NDArray[np.uint8] | NDArray[np.uint16]
Words = NDArray[np.uint64]
Blocks = NDArray[np.void]

UNKNOWN = -1
NO_ROW = -1


def _meanings(lanes: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Counts (one per lane, the first lowest) and number of bars for any `lanes` bits of code."""
    counts, bars = np.zeros(1 << lanes, np.uint64), np.zeros(1 << lanes, np.uint64)
    for bits in range(1 << lanes):
        for position in range(lanes):
            if bits >> position & 1:
                counts[bits] += np.uint64(1 << (64 // lanes * int(bars[bits])))
            else:
                bars[bits] += np.uint64(1)
    return counts, bars


_COUNTS_8, _BARS_8 = _meanings(8)
_COUNTS_4, _BARS_4 = _meanings(4)


@intrinsic
def _store(types_context, row, lane, word):  # type: ignore[no-untyped-def]
    """Store a uint64 over `row[lane]` and the counts after it, aligned or not."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(start, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.void(row, types.int64, types.uint64), generate


@intrinsic
def _load(types_context, row, lane):  # type: ignore[no-untyped-def]
    """Load the uint64 over `row[lane]` and the counts after it."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(start, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(row, types.int64), generate


def row_lanes(num_layers: int, num_experts: int, words: int) -> int:
    """Length of a row: its counts, and room for what `decode` writes beyond them."""
    return num_layers * num_experts + 64 * words + 8


@njit
def encode(row: Counts, num_layers: int, num_experts: int, words: int, code: Words) -> None:
    """Write the counts of one block as its code.

    Parameters
    ----------
    row : ndarray of uint8 or uint16, shape [row_lanes]
    words : int
        Words of code per layer; 0 to keep the counts plain.
    code : ndarray of uint64, shape [num_layers * words]; written
    """
    if words == 0:
        lanes = 8 // row.itemsize
        for i in range(len(code)):
            code[i] = _load(row, i * lanes)
        return
    one, end_of_word, ones = uint64(1), uint64(64), ~uint64(0)
    i = 0
    for layer in range(num_layers):
        word = at = uint64(0)
        for expert in range(num_experts):
            bar = at + uint64(row[layer * num_experts + expert])
            while bar >= end_of_word:
                code[i] = word | (ones << at)
                i += 1
                word = at = uint64(0)
                bar -= end_of_word
            word |= (one << bar) - (one << at)
            at = bar + one
            if at == end_of_word:
                code[i] = word
                i += 1
                word = at = uint64(0)
        while i < (layer + 1) * words:
            code[i] = word
            i += 1
            word = uint64(0)


@njit
def decode(code: Words, num_layers: int, num_experts: int, words: int, row: Counts) -> None:
    """Write the counts behind `code` into `row`, the inverse of `encode`; shapes as there.

    Zeros after a layer's last bar read as further experts without picks. They land in the next
    layer, which is written afterwards, or after the last one, where a row has room for them.
    """
    lanes = uint64(8 // row.itemsize)
    if words == 0:
        for i in range(len(code)):
            _store(row, i * int64(lanes), code[i])
        return
    counts, bars = (_COUNTS_8, _BARS_8) if row.itemsize == 1 else (_COUNTS_4, _BARS_4)
    mask = (uint64(1) << lanes) - uint64(1)
    half_lane = uint64(4 * row.itemsize)
    for layer in range(num_layers):
        lane = layer * num_experts
        carry = uint64(0)
        for i in range(layer * words, (layer + 1) * words):
            word = code[i]
            for _ in range(8 * row.itemsize):
                bits = word & mask
                here = counts[bits] + carry
                _store(row, lane, here)
                half = bars[bits] * half_lane  # in two halves: nothing but bars shifts out all 64
                carry = here >> half >> half
                lane += int64(bars[bits])
                word >>= lanes
        _store(row, lane, carry)  # the last expert, where nothing but bars has come before it


@njit
def _release(
    block: int, blocks: Blocks, owners: NDArray[np.int32], hand: NDArray[np.int64]
) -> None:
    row = blocks[block].row
    if row >= 0:
        owners[row] = -1
        blocks[block].row = NO_ROW
        hand[0] = row  # the next block to be written takes it, so that no other block loses its row


@njit
def _plain_row(
    block: int,
    num_layers: int,
    num_experts: int,
    words: int,
    codes: Words,
    rows: Counts,
    owners: NDArray[np.int32],
    hand: NDArray[np.int64],
    blocks: Blocks,
) -> int:
    """Give `block` a row, encode the block that had it, and return the row's index."""
    row: int = blocks[block].row
    if row >= 0:
        return row
    row = hand[0]
    hand[0] = (row + 1) % len(rows)
    former = owners[row]
    if former >= 0:
        encode(rows[row], num_layers, num_experts, words, codes[former])
        blocks[former].row = NO_ROW
    if blocks[block].held > 0:
        decode(codes[block], num_layers, num_experts, words, rows[row])
    owners[row] = block
    blocks[block].row = row
    return row


def _signatures(
    result: types.Type, *before: types.Type, after: tuple[types.Type, ...]
) -> list[types.Type]:
    """The signatures for rows of uint8 and of uint16."""
    rows = (types.Array(dtype, 2, "C") for dtype in (uint8, uint16))
    return [result(*before, plain, *after) for plain in rows]


_BLOCKS = types.Array(from_dtype(BLOCK), 1, "C")
_WORDS = types.Array(uint64, 2, "C")


@kernel(
    *_signatures(
        types.void,
        readonly(int64, 1),
        readonly(int64, 1),
        readonly(int32, 3),
        *(int64, int64, int64),
        _WORDS,
        after=(types.Array(int32, 1, "C"), types.Array(int64, 1, "C"), _BLOCKS),
    )
)
def add_rows(
    order: NDArray[np.int64],
    slots: NDArray[np.int64],
    experts: NDArray[np.int32],
    block_size: int,
    num_experts: int,
    words: int,
    codes: Words,
    rows: Counts,
    owners: NDArray[np.int32],
    hand: NDArray[np.int64],
    blocks: Blocks,
) -> None:
    """Count the experts of one forward pass's tokens into their blocks.

    Parameters
    ----------
    order : ndarray of int64, shape [n]
        The rows to count, by ascending slot.
    slots : ndarray of int64, shape [rows]
    experts : ndarray of int32, shape [rows, L, k]
    codes : ndarray of uint64, shape [N, code words]; written
    rows : ndarray of uint8 or uint16, shape [R, row_lanes]; written
    owners : ndarray of int32, shape [R]; written
        The block that each row belongs to; negative for none.
    hand : ndarray of int64, shape [1]; written
        The row to be given away next.
    blocks : ndarray of BLOCK, shape [N]; written
    """
    num_layers, top_k = experts.shape[1], experts.shape[2]
    previous = -1
    for i in order:
        slot = slots[i]
        block, offset = slot // block_size, slot % block_size
        blocks[block].generation += 1
        restarts = offset == 0 and slot != previous
        previous = slot
        if restarts:
            blocks[block].held = 0
        if blocks[block].held != offset:  # a gap, a repetition, or already unknown
            blocks[block].held = UNKNOWN
            _release(block, blocks, owners, hand)
            continue
        row = rows[
            _plain_row(block, num_layers, num_experts, words, codes, rows, owners, hand, blocks)
        ]
        if restarts:
            row[:] = 0
        valid = True
        for layer in range(num_layers):
            for pick in range(top_k):
                expert = experts[i, layer, pick]
                if 0 <= expert < num_experts:
                    row[layer * num_experts + expert] += 1
                else:
                    valid = False
        blocks[block].held = offset + 1 if valid else UNKNOWN
        if valid and offset + 1 == block_size:
            encode(row, num_layers, num_experts, words, codes[block])
        if not valid or offset + 1 == block_size:
            _release(block, blocks, owners, hand)


@kernel(
    *_signatures(
        types.void,
        int64,
        readonly(int32, 3),
        *(int64, int64),
        _WORDS,
        after=(types.Array(int32, 1, "C"), types.Array(int64, 1, "C"), _BLOCKS),
    )
)
def subtract_rows(
    block: int,
    experts: NDArray[np.int32],
    num_experts: int,
    words: int,
    codes: Words,
    rows: Counts,
    owners: NDArray[np.int32],
    hand: NDArray[np.int64],
    blocks: Blocks,
) -> None:
    """Subtract a block's latest tokens, `experts` [n, L, k], from its counts.

    The other parameters are as for `add_rows`.
    """
    tokens, num_layers, top_k = experts.shape
    row = rows[_plain_row(block, num_layers, num_experts, words, codes, rows, owners, hand, blocks)]
    for token in range(tokens):
        for layer in range(num_layers):
            for pick in range(top_k):
                row[layer * num_experts + experts[token, layer, pick]] -= 1
    blocks[block].held -= tokens
    blocks[block].generation += 1


@kernel(
    *_signatures(
        int64,
        readonly(int64, 1),
        *(int64, int64, int64, int64),
        _WORDS,
        after=(_BLOCKS, types.Array(uint32, 2, "C")),
    )
)
def sum_blocks(
    chain: NDArray[np.int64],
    num_tokens: int,
    block_size: int,
    num_experts: int,
    words: int,
    codes: Words,
    rows: Counts,
    blocks: Blocks,
    total: NDArray[np.uint32],
) -> int:
    """Add the counts of a prompt's successive blocks to `total`; return the number of known tokens.

    Parameters
    ----------
    chain : ndarray of int64, shape [n]
        Block ids.
    num_tokens : int
        Tokens that the blocks should hold; all but the last are full.
    codes, rows, blocks
        As for `add_rows`; read-only.
    total : ndarray of uint32, shape [L, E]; written
    """
    num_layers = len(total)
    total = total.reshape(-1)
    scratch = np.empty_like(rows[0])
    known = 0
    for i in range(len(chain)):
        block = chain[i]
        held = blocks[block].held
        # Answer tokens in a block cannot be separated from the prompt's again.
        if held <= 0 or held > num_tokens - i * block_size:
            continue
        known += held
        if blocks[block].row >= 0:
            row = rows[blocks[block].row]
        else:
            row = scratch
            decode(codes[block], num_layers, num_experts, words, row)
        for j in range(len(total)):
            total[j] += row[j]
    return known


@kernel(types.Array(uint64, 1, "C")(readonly(int64, 1), _BLOCKS, int64))
def chain_hashes(chain: NDArray[np.int64], blocks: Blocks, interval: int) -> Words:
    """Hash the contents of the first `interval`, 2 * `interval`, ... blocks of a chain.

    Each block's id and generation form one number, so two chains of equal hashes are the same
    blocks with the same contents, except for one pair in 2^64 (the mixing is splitmix64's).

    Returns
    -------
    ndarray of uint64, shape [len(chain) // interval]
    """
    result = np.empty(len(chain) // interval, np.uint64)
    mixed = uint64(0x9E3779B97F4A7C15)
    for i in range(len(result) * interval):
        block = chain[i]
        mixed ^= uint64(block) | uint64(blocks[block].generation) << uint64(32)
        mixed = (mixed ^ (mixed >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> uint64(27))) * uint64(0x94D049BB133111EB)
        mixed ^= mixed >> uint64(31)
        if (i + 1) % interval == 0:
            result[i // interval] = mixed
    return result
