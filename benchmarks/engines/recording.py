"""What recording costs: one real vLLM engine that records, against the same engine without.

Recording is switched on and off between turns (`shim_switch`); ELDR's other parts stay on. Each
round has one turn on and two off, in varying order; figures are medians of the rounds' ratios. A
turn runs 16 prompts at once: prefilled only, or prefilled and answered. As such ratios are noisy,
the recording's parts of a step are also timed separately.

    ELDR_DAEMON_PYTHON=.venv/bin/python .venv-vllm/bin/python -m benchmarks.engines.recording
"""

import argparse
import json
import os
import pickle
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.engines.shim_cost import (
    BLOCK,
    EXPERTS,
    LAYERS,
    SEQUENCES,
    TOP_K,
    TURNS,
    WARM_UPS,
    one_thread,
    ratio,
    ratios,
)

PROMPT = 128
PAUSE_SECONDS = 1.5  # long enough for the recording to be written
KINDS = {"prefill": 1, "decode": 64}  # tokens per answer


def engine(model: Path, router: str, folder: Path) -> Any:
    """An engine that prefills and decodes."""
    from vllm import LLM

    return LLM(
        str(model),
        dtype="float32",
        enforce_eager=True,
        block_size=BLOCK,
        max_model_len=1024,
        max_num_seqs=SEQUENCES,
        kv_transfer_config={
            "kv_connector": "SwitchedRecording",
            "kv_connector_module_path": "benchmarks.engines.shim_switch",
            "kv_role": "kv_both",
            "kv_buffer_device": "cpu",
            "kv_connector_extra_config": {
                "eldr": {"router": router, "record": str(folder)},
                "inner": {"kv_connector": "NixlConnector", "kv_connector_module_path": "tame_nixl"},
            },
        },
    )


def measure(model: Path, rounds: int, router: str, folder: Path) -> dict[str, Any]:
    """Ratios for each kind of turn, and bytes on disk per token of each kind."""
    from vllm import SamplingParams

    rng = np.random.default_rng(0)
    switch = Path(os.environ["ELDR_BENCH_OFF"])
    llm = engine(model, router, folder)
    found: dict[str, Any] = {}
    for kind, tokens in KINDS.items():
        sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        taken: dict[str, list[float]] = {turn: [] for turn in TURNS}
        before, recorded = size(folder), 0
        orders = cycle(permutations(TURNS))
        for number in range(-WARM_UPS, rounds):
            for turn in next(orders):
                prompts = rng.integers(1, 250, (SEQUENCES, PROMPT)).tolist()
                if turn == "on":
                    switch.unlink(missing_ok=True)
                    recorded += 1
                else:
                    switch.touch()
                began = time.perf_counter()
                llm.generate(
                    [{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False
                )
                seconds = time.perf_counter() - began
                if number >= 0:
                    taken[turn].append(seconds)
        time.sleep(PAUSE_SECONDS)
        written = size(folder) - before
        if not written:
            raise SystemExit("nothing was recorded: the switch has no effect")
        found[kind] = {
            "ms_a_turn": round(1e3 * float(np.median(taken["off"])), 1),
            "on / off": ratio(taken["on"], taken["off"]),
            "off again / off": ratio(taken["off again"], taken["off"]),
            "bytes_a_request": round(written / recorded / SEQUENCES),
        }
    llm.llm_engine.engine_core.shutdown()
    return found


def step_us(repeats: int, folder: Path) -> dict[str, float]:
    """Microseconds added to a decode step of 16 sequences, 48 layers, top-8 of 128.

    The parts run one after another in the step, except `write`, which runs in another thread.
    """
    from eldr_vllm.messages import StepReport
    from eldr_vllm.recording.files import RecordingFiles
    from eldr_vllm.recording.recorder import Recorder
    from eldr_vllm.recording.tables import frame
    from eldr_vllm.scheduler.recording import RecordSide
    from eldr_vllm.scheduler.step import KvSlots, ScheduledStep
    from eldr_vllm.worker.capture import experts_at

    rng = np.random.default_rng(0)
    recorder = Recorder(RecordingFiles(folder, "bench", 1 << 30), {})
    side = RecordSide("decode", 1.0, recorder)
    for name in range(SEQUENCES):
        side.begin(
            SimpleNamespace(
                request_id=str(name),
                num_prompt_tokens=1000,
                arrival_time=0.0,
                kv_transfer_params={"eldr": {"request_id": str(name)}},
            )
        )
    blocks = {
        str(name): (row.tolist(),)
        for name, row in enumerate(rng.permutation(16_384).reshape(16, -1))
    }
    kv_slots = KvSlots(0, BLOCK)
    parts: dict[str, list[float]] = {name: [] for name in ("plan", "select", "carry", "take")}
    rows = []

    def timed(part: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = work(*arguments)
        parts[part].append(1e6 * (time.perf_counter() - began))
        return result

    for step in range(repeats):
        picks = rng.random((SEQUENCES, LAYERS, EXPERTS)).argpartition(TOP_K)[..., :TOP_K]
        computed = {name: (1000 + step, 1001 + step) for name in blocks}
        now = time.monotonic()
        kv_slots.begin(blocks.__getitem__, set())
        slots, _ = timed("plan", side.plan, ScheduledStep(now, computed, set(), kv_slots))
        shuffled = rng.permutation(slots)
        found = timed("select", experts_at, slots, shuffled, picks.astype(np.uint8))
        _, found = timed("carry", lambda x: pickle.loads(pickle.dumps(x)), (slots, found))
        report = StepReport(
            started=now,
            generating=SEQUENCES,
            layers=LAYERS,
            distinct=9,
            totals=[],
            answer_rows=slots,
            answer_experts=None,
            recorded=found,
        )
        timed("take", side.take, [report], now)
        rows.append((list(range(SEQUENCES)), found))
    recorder.close()
    medians = {name: float(np.median(values)) for name, values in parts.items()}
    medians["together"] = sum(medians.values())
    began = time.perf_counter()
    frame({"tokens": rows}, {})
    medians["write"] = 1e6 * (time.perf_counter() - began) / repeats
    return {name: round(value, 1) for name, value in medians.items()}


def size(folder: Path) -> int:
    """Total bytes of all files."""
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.exists() else 0


def table(result: dict[str, Any]) -> str:
    lines = [f"{'expert':>8}  {'turn':>8}  {'takes':>8}  {'on / off':>24}  {'off again / off':>24}"]
    for model, kinds in result["engines"].items():
        for kind, found in kinds.items():
            cells = ratios(found)
            turn = f"{found['ms_a_turn']:.0f} ms"
            lines.append(f"{model:>8}  {kind:>8}  {turn:>8}  {cells[0]:>24}  {cells[1]:>24}")
    parts = ", ".join(f"{name} {value}" for name, value in result["step_us"].items())
    return "\n".join([*lines, f"us per decode step of {SEQUENCES} sequences: {parts}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expert-mb", type=float, nargs="*", default=[4.0], help="widened models")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("build/bench/recording.json"))
    options = parser.parse_args()

    one_thread()
    import torch
    from rig import Daemon

    from benchmarks.engines.tiny_moe import checkpoint, widen

    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "rounds": options.rounds,
        "engines": {},
    }
    with tempfile.TemporaryDirectory() as name, ExitStack() as ending:
        folder = Path(name)
        result["step_us"] = step_us(2_000, folder / "step")
        os.environ["ELDR_BENCH_OFF"] = str(folder / "off")
        daemon = Daemon(folder)
        ending.callback(daemon.kill)
        models = {"tiny": checkpoint.CHECKPOINT}
        for megabytes in options.expert_mb:
            models[f"{megabytes:g} MB"] = folder / f"{megabytes:g}"
            wide = widen.intermediate_size(megabytes, 128, torch.float32)
            widen.widen(checkpoint.CHECKPOINT, models[f"{megabytes:g} MB"], wide, torch.float32)
        for number, (label, model) in enumerate(models.items()):
            result["engines"][label] = measure(
                model, options.rounds, daemon.target, folder / f"recording-{number}"
            )
    print(table(result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
