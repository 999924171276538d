"""What the signature cache costs at Qwen3-30B-A3B's geometry: memory, sums, additions.

    PYTHONPATH=clients/vllm .venv/bin/python -m benchmarks.speed.signature_cache

Each time is compared with that of the plain way to do the same, measured in turn in the same run:
counts as bytes, uint8 [blocks, layers, experts], summed by NumPy and by a compiled loop. Routing is
random; each layer's skew over experts is drawn from a Dirichlet distribution (a concentration of
0.5 makes a block of 16 tokens use some 57 of 128 experts). Prints the results and writes them to
build/bench/signature_cache.json; times in milliseconds.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from eldr_vllm.compiling import kernel, readonly
from eldr_vllm.worker.signature_cache import SignatureCache
from numba import int64, types, uint8, uint32

BLOCK_SIZE, LAYERS, EXPERTS, TOP_K = 16, 48, 128, 8
KV_BYTES_A_BLOCK = BLOCK_SIZE * LAYERS * 2 * 4 * 128 * 2  # keys and values, 4 heads x 128, bf16
CACHED_TOKENS = 128_000
CHUNK_TOKENS = 2_048
DECODE_ROWS = 16
NUM_BLOCKS = 16_384  # 24 GiB of KV


def routed(tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Experts [tokens, LAYERS, TOP_K] int32, distinct within a token."""
    logits = np.log(rng.dirichlet(np.full(EXPERTS, 0.5), size=LAYERS) + 1e-9).astype(np.float32)
    noise = rng.gumbel(size=(tokens, LAYERS, EXPERTS)).astype(np.float32)
    chosen = np.argpartition(logits + noise, -TOP_K, axis=-1)[..., -TOP_K:]
    return np.ascontiguousarray(chosen, np.int32)


@kernel(types.void(types.Array(uint8, 3, "C"), readonly(int64, 1), types.Array(uint32, 2, "C")))
def plain_sum(plain, blocks, total):
    for block in blocks:
        for layer in range(total.shape[0]):
            for expert in range(total.shape[1]):
                total[layer, expert] += plain[block, layer, expert]


def plain_add(plain: np.ndarray, slots: np.ndarray, experts: np.ndarray) -> None:
    """Count as `SignatureCache.add` does, into bytes, in NumPy's fastest way: a flat bincount."""
    blocks, place = np.unique(slots // BLOCK_SIZE, return_inverse=True)
    row = place[:, None, None] * LAYERS + np.arange(LAYERS)[:, None]
    counts = np.bincount((row * EXPERTS + experts).ravel(), minlength=len(blocks) * plain[0].size)
    plain[blocks[np.isin(blocks * BLOCK_SIZE, slots)]] = 0
    plain[blocks] += counts.reshape(-1, LAYERS, EXPERTS).astype(np.uint8)


def by_turns(
    repeats: int, *, steps: int = 1, **ways: tuple[Callable[[], object], Callable[[], object]]
) -> dict:
    """Milliseconds per step of each way's second callable; its first one prepares.

    Both the thread's processor time and wall time, which other work on the machine stretches.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (prepare, run) in ways.items():
            prepare()
            wall, processor = time.perf_counter(), time.thread_time()
            run()
            taken = time.thread_time() - processor, time.perf_counter() - wall
            times[name].append(taken)
    result = {}
    for name, taken in times.items():
        processor, wall = np.array(taken).T * 1e3 / steps
        result[name] = {
            "processor_median": round(float(np.median(processor)), 4),
            "clock_median": round(float(np.median(wall)), 4),
            "clock_least": round(float(wall.min()), 4),
        }
    return result


def measure(repeats: int) -> dict:
    rng = np.random.default_rng(0)
    cache = SignatureCache(NUM_BLOCKS, BLOCK_SIZE, LAYERS, EXPERTS, TOP_K)
    plain = np.zeros((NUM_BLOCKS, LAYERS, EXPERTS), np.uint8)
    blocks = rng.permutation(NUM_BLOCKS)
    cached = blocks[: CACHED_TOKENS // BLOCK_SIZE]
    chunks = [routed(CHUNK_TOKENS, rng) for _ in range(8)]

    def slots_of(chain: np.ndarray) -> np.ndarray:
        return (chain[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)).ravel()

    for number, start in enumerate(range(0, CACHED_TOKENS, CHUNK_TOKENS)):
        slots = slots_of(cached)[start : start + CHUNK_TOKENS]
        cache.add(slots, chunks[number % 8][: len(slots)])
        plain_add(plain, slots, chunks[number % 8][: len(slots)])
    as_vllm_has_them = cached.tolist()

    def forget_sums() -> None:
        cache._sums_hash[:] = 0

    def nothing() -> None:
        pass

    total = np.zeros((LAYERS, EXPERTS), np.uint32)
    sums = by_turns(
        repeats,
        cold=(forget_sums, lambda: cache.total(as_vllm_has_them, CACHED_TOKENS)),
        warm=(nothing, lambda: cache.total(as_vllm_has_them, CACHED_TOKENS)),
        plain_numpy=(nothing, lambda: plain[cached].sum(0, dtype=np.uint32)),
        plain_compiled=(nothing, lambda: plain_sum(plain, cached, total)),
    )
    exact = cache.total(as_vllm_has_them, CACHED_TOKENS)
    if not np.array_equal(exact.counts, plain[cached].sum(0, dtype=np.uint32)):
        raise SystemExit("the cache's sum is not the plain one")

    free = blocks[len(cached) :]
    chunk_slots = slots_of(free[: CHUNK_TOKENS // BLOCK_SIZE])
    chunk = by_turns(
        repeats,
        cache=(nothing, lambda: cache.add(chunk_slots, chunks[0])),
        plain_numpy=(nothing, lambda: plain_add(plain, chunk_slots, chunks[0])),
    )

    # Each sequence's next token: 16 steps start, fill and encode 16 blocks.
    def decode(add: Callable[[np.ndarray, np.ndarray], None]) -> Callable[[], None]:
        decoding = free[-DECODE_ROWS:] * BLOCK_SIZE

        def run() -> None:
            for offset in range(BLOCK_SIZE):
                add(decoding + offset, chunks[offset % 8][:DECODE_ROWS])

        return run

    step = by_turns(
        repeats,
        steps=BLOCK_SIZE,
        cache=(nothing, decode(cache.add)),
        plain_numpy=(nothing, decode(lambda slots, experts: plain_add(plain, slots, experts))),
    )
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "repeats": repeats,
        "memory_percent_of_kv": round(100 * cache.nbytes / (NUM_BLOCKS * KV_BYTES_A_BLOCK), 4),
        "memory_percent_of_kv_plain": round(
            100 * plain.nbytes / (NUM_BLOCKS * KV_BYTES_A_BLOCK), 4
        ),
        f"sum_of_{CACHED_TOKENS}_tokens_ms": sums,
        f"add_chunk_of_{CHUNK_TOKENS}_tokens_ms": chunk,
        f"add_decode_step_of_{DECODE_ROWS}_rows_ms": step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("build/bench/signature_cache.json"))
    options = parser.parse_args()
    result = json.dumps(measure(options.repeats), indent=2)
    print(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(result + "\n")


if __name__ == "__main__":
    main()
