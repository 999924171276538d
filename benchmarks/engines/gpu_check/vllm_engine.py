"""One vLLM engine, in its own process: its prompts' counts against the log, and its speed.

    python -m benchmarks.engines.gpu_check.vllm_engine KIND FOLDER

Writes FOLDER/found.json. KIND: `eager` and `default` have ELDR's connector around the log's;
`without` is `default` with the log's alone.
"""

import base64
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

EAGER, DEFAULT, WITHOUT = KINDS = ("eager", "default", "without")
PROMPTS, ANSWERS, SEQUENCES, ROUNDS = 40, 48, 16, 7
BLOCK = 32
NOBODY = "127.0.0.1:9"


def engine(kind: str, model: Path, folder: Path, on_cpu: bool) -> Any:
    """An engine of a model with random weights."""
    from vllm import LLM

    log = {
        "kv_connector": "LogConnector",
        "kv_connector_module_path": "benchmarks.engines.gpu_check.log_connector",
        "kv_connector_extra_config": {"log": str(folder)},
    }
    eldr = {
        "kv_connector": "EldrConnector",
        "kv_connector_module_path": "eldr_vllm.connector",
        # There is no daemon: the counts come in the answers.
        "kv_connector_extra_config": {"eldr": {"router": NOBODY}, "inner": log},
    }
    return LLM(
        str(model),
        dtype="float32" if on_cpu else "bfloat16",
        enforce_eager=kind == EAGER,
        block_size=BLOCK,
        max_model_len=640,
        max_num_seqs=SEQUENCES,
        max_num_batched_tokens=128,
        num_gpu_blocks_override=512,
        kv_transfer_config={**(log if kind == WITHOUT else eldr), "kv_role": "kv_both"},
        **({} if on_cpu else {"gpu_memory_utilization": 0.5}),
    )


def prompts() -> list[list[int]]:
    """Prompts of 20 to 300 tokens: many are longer than a step, and no two start alike."""
    rng = np.random.default_rng(6)
    lengths = rng.integers(20, 300, PROMPTS)
    return [[n % 250 + 1, *rng.integers(1, 250, length)] for n, length in enumerate(lengths)]


def counted(llm: Any, wanted: list[list[int]]) -> list[tuple[str, int, Any]]:
    """(request, cached tokens, counts [layers, experts] or None) of each prompt."""
    from eldr.v1.activation_pb2 import ActivationCounts
    from eldr_client import Counts
    from vllm import SamplingParams

    sampling = SamplingParams(
        max_tokens=1,
        temperature=0,
        extra_args={"kv_transfer_params": {"do_remote_decode": True}},
    )
    found = []
    inputs = [{"prompt_token_ids": list(map(int, prompt))} for prompt in wanted]
    for output in llm.generate(inputs, sampling, use_tqdm=False):
        said = (output.kv_transfer_params or {}).get("eldr", {}).get("counts")
        counts = None
        if said is not None:
            message = ActivationCounts.FromString(base64.b64decode(said))
            if message.unknown_tokens == 0:
                counts = Counts.from_proto(message).array
        found.append((output.request_id, output.num_cached_tokens or 0, counts))
    return found


def as_logged(counts: Any, rows: dict[int, Any], tokens: int) -> bool:
    """Whether `counts` are those of the experts that `rows` has for each prompt position."""
    if counts is None or not all(position in rows for position in range(tokens)):
        return False
    expected = np.zeros_like(counts)
    layers = np.arange(len(expected))[:, None]
    for position in range(tokens):
        np.add.at(expected, (layers, rows[position]), 1)
    return bool((expected == counts).all())


def read_log(path: Path) -> dict[str, dict[int, Any]]:
    """{request without vLLM's suffix: {position: experts [layers, top_k]}}."""
    found: dict[str, dict[int, Any]] = {}
    with path.open("rb") as log:
        while log.peek(1):
            request, before, experts = pickle.load(log)
            rows = found.setdefault(request.rsplit("-", 1)[0], {})
            if experts.min() >= 0:  # else a kernel routed internally, bypassing the router
                rows |= {before + row: picks for row, picks in enumerate(experts)}
    return found


def exactness(llm: Any, folder: Path) -> dict[str, Any]:
    """Each prompt cold, then again from the prefix cache."""
    wanted = prompts()
    (folder / "on").touch()
    runs = [counted(llm, wanted), counted(llm, wanted)]
    (folder / "on").unlink()
    log = read_log(folder / "log.pickle")
    exact = 0
    for run in runs:
        for prompt, (first, *_), (name, _, counts) in zip(wanted, runs[0], run, strict=True):
            rows = {**log.get(first, {}), **log.get(name, {})}  # cached tokens: as in the first run
            exact += as_logged(counts, rows, len(prompt))
    return {
        "prompts": sum(map(len, runs)),
        "exact": exact,
        "logged": sum(map(len, log.values())),
        "cached_tokens": sum(cached for run in runs for _, cached, _ in run),
        "counts": [None if counts is None else counts.tolist() for *_, counts in runs[0]],
    }


def step_us(llm: Any) -> list[float]:
    """Us per decode step of all sequences: each round's time over its steps."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=ANSWERS, temperature=0, ignore_eos=True)
    rng = np.random.default_rng(7)
    found = []
    for _ in range(ROUNDS + 1):
        inputs = [{"prompt_token_ids": rng.integers(1, 250, 8).tolist()} for _ in range(SEQUENCES)]
        began = time.perf_counter()
        llm.generate(inputs, sampling, use_tqdm=False)
        found.append(1e6 * (time.perf_counter() - began) / ANSWERS)
    return found[1:]


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    import vllm
    from vllm.platforms import current_platform

    llm = engine(kind, folder.parent / "model", folder, current_platform.is_cpu())
    found: dict[str, Any] = {"vllm": vllm.__version__, "platform": current_platform.device_type}
    if kind != WITHOUT:
        found |= exactness(llm, folder)
    if kind != EAGER:
        found["step_us"] = step_us(llm)
    llm.llm_engine.engine_core.shutdown()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
