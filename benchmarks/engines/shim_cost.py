"""What the connector costs: prefill with and without ELDR's part, and counting decoded tokens.

One real vLLM engine with a wrapped NIXL connector, and its daemon. ELDR's part is switched on and
off between turns (`shim_switch`), as two equally configured engines differ by several percent. Each
round has one turn on and two off, in varying order, with new prompts of the same length; figures
are medians of the rounds' ratios.

    ELDR_DAEMON_PYTHON=.venv/bin/python .venv-vllm/bin/python -m benchmarks.engines.shim_cost
"""

import argparse
import json
import os
import pickle
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).parents[2]
PATHS = [CHECKOUT, *(CHECKOUT / p for p in ("tests/vllm", "clients/vllm", "clients/python"))]
TURNS = ("off", "on", "off again")
BLOCK = 32
WARM_UPS = 3
PAUSE_SECONDS = 0.05  # long enough for the outbox to empty
LAYERS, EXPERTS, TOP_K = 48, 128, 8  # Qwen3-30B-A3B
SEQUENCES = 16


def engine(model: Path, router: str) -> Any:
    """An engine that prefills."""
    from vllm import LLM

    return LLM(
        str(model),
        dtype="float32",
        enforce_eager=True,
        block_size=BLOCK,
        max_model_len=2048,
        max_num_batched_tokens=1024,
        kv_transfer_config={
            "kv_connector": "SwitchedConnector",
            "kv_connector_module_path": "benchmarks.engines.shim_switch",
            "kv_role": "kv_producer",
            "kv_buffer_device": "cpu",
            "kv_connector_extra_config": {
                "eldr": {"router": router},
                "inner": {"kv_connector": "NixlConnector", "kv_connector_module_path": "tame_nixl"},
            },
        },
    )


def prefill_seconds(llm: Any, prompts: list[list[int]], on: bool) -> float:
    """Seconds until all prompts are prefilled."""
    from vllm import SamplingParams

    began = time.perf_counter()
    answers = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        SamplingParams(max_tokens=1, temperature=0),
        use_tqdm=False,
    )
    taken = time.perf_counter() - began
    counted = ["counts" in (answer.kv_transfer_params or {}).get("eldr", {}) for answer in answers]
    if any(answer.num_cached_tokens for answer in answers) or counted != [on] * len(prompts):
        raise SystemExit("new prompts were cached, or the switch has no effect")
    return taken


def prefill(model: Path, lengths: list[int], tokens: int, rounds: int, router: str) -> dict:
    """Ratios for prompts of each length, with `tokens` prompt tokens per turn."""
    rng = np.random.default_rng(0)
    switch = Path(os.environ["ELDR_BENCH_OFF"])
    llm = engine(model, router)
    found = {}
    for length in lengths:
        taken: dict[str, list[float]] = {turn: [] for turn in TURNS}
        orders = cycle(permutations(TURNS))
        for number in range(-WARM_UPS, rounds):
            for turn in next(orders):
                prompts = rng.integers(1, 250, (max(tokens // length, 1), length)).tolist()
                if turn == "on":
                    switch.unlink(missing_ok=True)
                else:
                    switch.touch()
                time.sleep(PAUSE_SECONDS)
                seconds = prefill_seconds(llm, prompts, turn == "on")
                if number >= 0:
                    taken[turn].append(seconds)
        found[f"{length} tokens"] = {
            "ms_a_turn": round(1e3 * float(np.median(taken["off"])), 1),
            "on / off": ratio(taken["on"], taken["off"]),
            "off again / off": ratio(taken["off again"], taken["off"]),
        }
    llm.llm_engine.engine_core.shutdown()
    return found


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The median of the ratios, with a 95% interval by bootstrap over the rounds."""
    ratios = np.array(ours) / np.array(theirs)
    draws = np.random.default_rng(0).integers(0, len(ratios), (10_000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), (2.5, 97.5))
    values = {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}
    return {name: round(value, 4) for name, value in values.items()}


def decode_counts(repeats: int) -> dict[str, float]:
    """Microseconds that counting adds to a decode step of 16 sequences, 48 layers, top-8 of 128."""
    from eldr_vllm.scheduler.decode import DecodeSide
    from eldr_vllm.scheduler.decode_counts import DecodeCounts
    from eldr_vllm.scheduler.step import KvSlots, ScheduledStep
    from eldr_vllm.settings import Settings
    from eldr_vllm.worker.capture import experts_at

    rng = np.random.default_rng(0)
    counts = DecodeCounts(2 * SEQUENCES, EXPERTS)
    side = DecodeSide(Settings.read({}, "kv_consumer"), "m", 1 << 20, None)  # type: ignore[arg-type]
    side.count_answers(counts, TOP_K)
    for name in range(SEQUENCES):
        booking = {"request_id": str(name), "lease_id": "x"}
        request = SimpleNamespace(
            request_id=str(name),
            num_prompt_tokens=1000,
            kv_transfer_params={"eldr": booking},
        )
        side.begin(request)
    blocks = {
        str(name): (row.tolist(),)
        for name, row in enumerate(rng.permutation(16_384).reshape(16, -1))
    }
    kv_slots = KvSlots(0, BLOCK)
    parts: dict[str, list[float]] = {name: [] for name in ("plan", "select", "carry", "add")}

    def timed(part: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = work(*arguments)
        parts[part].append(1e6 * (time.perf_counter() - began))
        return result

    for step in range(repeats):
        experts = rng.random((SEQUENCES, LAYERS, EXPERTS)).argpartition(TOP_K)[..., :TOP_K]
        computed = {name: (1000 + step, 1001 + step) for name in blocks}
        kv_slots.begin(blocks.__getitem__, set())
        scheduled = ScheduledStep(float(step), computed, set(), kv_slots)
        rows, slots = timed("plan", side.wanted, scheduled)
        shuffled = rng.permutation(slots)
        found = timed("select", experts_at, slots, shuffled, experts.astype(np.uint8))
        carried = timed(
            "carry", lambda x: pickle.loads(pickle.dumps(x)), (rows, slots, rows, found)
        )
        timed("add", side.count, rows, carried[-1])
    medians = {name: float(np.median(values)) for name, values in parts.items()}
    medians["together"] = sum(medians.values())
    return {name: round(value, 1) for name, value in medians.items()}


def table(result: dict) -> str:
    lines = [f"{'expert':>8}  {'prompt':>11}  {'a turn':>9}  {'on / off':>24}  off again / off"]
    for model, lengths in result["prefill"].items():
        for length, found in lengths.items():
            cells = ratios(found)
            turn = f"{found['ms_a_turn']:.0f} ms"
            lines.append(f"{model:>8}  {length:>11}  {turn:>9}  {cells[0]:>24}  {cells[1]}")
    parts = ", ".join(f"{name} {value}" for name, value in result["decode_counts_us"].items())
    return "\n".join([*lines, f"decode_counts, us per step of {SEQUENCES} sequences: {parts}"])


def ratios(found: dict[str, Any]) -> list[str]:
    """The ratios of on, and of off again, to off, as printed."""
    names = ("on / off", "off again / off")
    return ["{median:.3f} ({low:.3f} to {high:.3f})".format(**found[name]) for name in names]


def one_thread() -> None:
    """Set this process up for engines with one CPU thread, and make the tests' rig importable."""
    sys.path[:0] = map(str, PATHS)
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")])
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expert-mb", type=float, nargs="*", default=[4.0], help="widened models")
    parser.add_argument("--tiny", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--tokens", type=int, default=2048, help="prompt tokens per turn")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/bench/shim_cost.json"))
    options = parser.parse_args()

    one_thread()
    import torch
    from rig import Daemon

    from benchmarks.engines.tiny_moe import checkpoint, widen

    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "rounds": options.rounds,
        "decode_counts_us": decode_counts(2_000),
        "prefill": {},
    }
    with tempfile.TemporaryDirectory() as name, ExitStack() as ending:
        folder = Path(name)
        os.environ["ELDR_BENCH_OFF"] = str(folder / "off")
        daemon = Daemon(folder)
        ending.callback(daemon.kill)
        models = {"tiny": checkpoint.CHECKPOINT} if options.tiny else {}
        for megabytes in options.expert_mb:
            models[f"{megabytes:g} MB"] = folder / f"{megabytes:g}"
            size = widen.intermediate_size(megabytes, 128, torch.float32)
            widen.widen(checkpoint.CHECKPOINT, models[f"{megabytes:g} MB"], size, torch.float32)
        for label, model in models.items():
            result["prefill"][label] = prefill(
                model, options.lengths, options.tokens, options.rounds, daemon.target
            )
    print(table(result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
