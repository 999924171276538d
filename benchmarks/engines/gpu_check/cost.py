"""What capturing costs a step, paired: with and without it in turn."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from eldr_vllm.worker.capture import ExpertRows

from benchmarks.engines.gpu_check.findings import MEASURED, Finding, skipped
from benchmarks.engines.gpu_check.forwards import EAGER, FULL, MODES, PIECES, forward, no_graphs
from benchmarks.engines.gpu_check.steps import Capture, Step
from benchmarks.engines.gpu_check.toy import ToyLayers, ToyMoe, config_of
from benchmarks.speed.paired import by_turns

STEPS_A_TURN = 20


def seconds_a_step(work: Callable[[], object], device: torch.device, steps: int) -> float:
    """Mean of `steps` steps submitted one after another, until the device has finished them."""
    _wait_for(device)
    began = time.perf_counter()
    for _ in range(steps):
        work()
    _wait_for(device)
    return (time.perf_counter() - began) / steps


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def cost(model: ToyMoe, turns: int) -> Iterator[Finding]:
    """Decode steps in each mode, eager prefill steps, and the host's work per step."""
    rng = np.random.default_rng(4)
    decode = sorted(model.size.graph_sizes)[len(model.size.graph_sizes) // 2]
    for rows, modes in ((decode, MODES), (model.size.tokens, (EAGER,))):
        step = _full_step(model, rows, rng)
        for mode in modes:
            name, why = f"{rows} rows, {mode}", no_graphs(model.device)
            if why and mode in (PIECES, FULL):
                yield skipped(name, why)
            else:
                yield _of(name, mode, model, step, turns)
        yield _reading(f"{rows} rows, read and checked on the host", model, step, turns)


def _full_step(model: ToyMoe, rows: int, rng: np.random.Generator) -> Step:
    tokens = torch.from_numpy(rng.integers(model.size.vocabulary, size=rows)).to(model.device)
    slots = torch.arange(rows, device=model.device)
    return Step(tokens, slots, rows, np.array([(0, rows - 1, rows)]), [0])


def _of(name: str, mode: str, model: ToyMoe, step: Step, turns: int) -> Finding:
    model.silence()
    bare = forward(mode, model, (step.rows,))
    rows = ExpertRows(ToyLayers(model), config_of(model))
    capture = Capture(model, rows, forward(mode, model, (step.rows,)))
    listeners = [router.listener for router in model.routers]

    def without() -> float:
        model.silence()
        return seconds_a_step(lambda: bare(step.tokens), model.device, STEPS_A_TURN)

    def captured() -> float:
        for router, listener in zip(model.routers, listeners, strict=True):
            router.listener = listener
        return seconds_a_step(
            lambda: capture.give_back(capture.submit(step)), model.device, STEPS_A_TURN
        )

    without(), captured()
    found = by_turns(captured, without, turns)
    return Finding(
        name,
        f"{1e6 * found.ours:,.0f} us against {1e6 * found.baseline:,.0f} without: "
        f"x {found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})",
        MEASURED,
        {
            "with_us": 1e6 * found.ours,
            "without_us": 1e6 * found.baseline,
            "ratio": found.ratio,
            "low": found.low,
            "high": found.high,
        },
    )


def _reading(name: str, model: ToyMoe, step: Step, turns: int) -> Finding:
    model.silence()
    rows = ExpertRows(ToyLayers(model), config_of(model))
    capture = Capture(model, rows, model.forward)
    host = capture.submit(step)
    _wait_for(model.device)
    capture.read(step, host)
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        capture.read(step, host)
        times.append(1e6 * (time.perf_counter() - began))
    median = float(np.median(times))
    return Finding(name, f"{median:,.0f} us, outside the step itself", MEASURED, {"us": median})
