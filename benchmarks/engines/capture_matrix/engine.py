"""An engine, its prompts, and what its shim reported about them."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.demos.demo_vllm.processes import free_port
from benchmarks.engines.capture_matrix.comparison import Log, judge_prompt, judge_release
from benchmarks.engines.capture_matrix.configurations import OPTIONS

BOOKED = 6  # requests whose answers are booked
GROWING = 240  # tokens of an answer that fills several blocks
ANSWER = 30  # tokens of other answers
PATIENCE = 20.0  # seconds to wait for the last release


def prompts(count: int, seed: int) -> list[list[int]]:
    """Prompts that share prefixes; most are longer than a chunk."""
    rng = random.Random(seed)
    bases = [[rng.randrange(1, 250) for _ in range(rng.randrange(100, 330))] for _ in range(4)]
    made = []
    for _ in range(count):
        base = rng.choice(bases)
        own = [rng.randrange(1, 250) for _ in range(rng.randrange(1, 60))]
        made.append(base[: rng.randrange(len(base) // 2, len(base) + 1)] + own)
    return made


def transfer(log: Path, router: str, shim: bool) -> dict[str, Any]:
    """The log connector, inside the shim or alone."""
    step_log = {
        "kv_connector": "StepLog",
        "kv_connector_module_path": "step_log",
        "kv_connector_extra_config": {"log": str(log)},
    }
    if not shim:
        return {"kv_role": "kv_both", **step_log}
    return {
        "kv_connector": "EldrConnector",
        "kv_connector_module_path": "eldr_vllm.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "eldr": {"router": router, "timeout": 5.0},
            "inner": step_log,
        },
    }


def run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Start the engine, query it, compare. Exceptions of vLLM are left to the caller."""
    from rig import decode_counts, read_counts
    from scripted_router import ScriptedRouter
    from wire import eventually
    from zoo import ARCHITECTURES, build

    architecture = cell["architecture"]
    model = build(architecture, folder / "model")
    log = folder / "log"
    log.mkdir()
    router = ScriptedRouter()
    router.port = free_port()

    from vllm import LLM, SamplingParams

    options = {"dtype": ARCHITECTURES[architecture].dtype, **OPTIONS, **cell["options"]}
    llm = LLM(str(model), kv_transfer_config=transfer(log, router.target, cell["shim"]), **options)
    router.start()  # not earlier: the engine's processes are forked
    asked = prompts(cell["prompts"], seed=cell["rank"])

    def ask(prompts, lengths, params):
        sampling = [
            SamplingParams(
                max_tokens=length,
                temperature=0,
                ignore_eos=True,
                extra_args={"kv_transfer_params": each},
            )
            for length, each in zip(lengths, params, strict=True)
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        return llm.generate(inputs, sampling, use_tqdm=False)

    # If blocks are scarce, growing answers cause others to be preempted.
    longest = GROWING if "num_gpu_blocks_override" in options else 12
    lengths = [1 if index % 2 else longest for index in range(len(asked))]
    turns = {
        turn: ask(asked, lengths, [{"do_remote_decode": True}] * len(asked))
        for turn in ("cold", "warm")
    }
    bookings = [
        {"eldr": {"request_id": f"b{index}", "lease_id": "x", "num_sequences": 1}}
        for index in range(min(BOOKED, len(asked)))
    ]
    booked = ask(asked[: len(bookings)], [ANSWER] * len(bookings), bookings)
    if not cell["shim"]:
        return {"served": True}
    try:
        eventually(lambda: len(router.requests("Release")) >= len(bookings), PATIENCE)
    except AssertionError:
        print("some releases did not arrive", flush=True)
    releases = {release.request_id: release for release in router.requests("Release")}
    everything = [*turns["cold"], *turns["warm"], *booked]

    def tokens(output):
        return [*output.prompt_token_ids, *output.outputs[0].token_ids]

    seen = Log(log, ((output.request_id, tokens(output)) for output in everything))

    def told(output):
        said = ((output.kv_transfer_params or {}).get("eldr") or {}).get("counts")
        return said and decode_counts(said)

    def released(booking):
        release = releases.get(booking["eldr"]["request_id"])
        has = release is not None and release.HasField("decode_counts")
        return read_counts(release.decode_counts) if has else None

    tallies = {
        turn: Counter(
            judge_prompt(seen, told(output), tokens(output), len(output.prompt_token_ids))
            for output in outputs
        )
        for turn, outputs in turns.items()
    }
    tallies["decode_counts"] = Counter(
        judge_release(seen, released(booking), tokens(output), len(output.prompt_token_ids))
        for booking, output in zip(bookings, booked, strict=True)
    )
    preempted = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
    return {
        "tallies": tallies,
        "cached": sum(output.num_cached_tokens or 0 for output in everything),
        "preempted": preempted,
        "tokens logged": len(seen),
        "rounded": seen.rounded,
        "variety": seen.variety,
        "v2": sum("V2" in path.read_text() for path in log.glob("*.runner")),
    }
