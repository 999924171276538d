"""Planted faults: each must be noticed by the shim's checks, or by comparison with the log."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from eldr_vllm.worker.capture import ExpertRows
from eldr_vllm.worker.checks import FailedStepError

from benchmarks.engines.gpu_check.exactness import differing, logged
from benchmarks.engines.gpu_check.findings import NOTICED, WRONG, Finding, skipped
from benchmarks.engines.gpu_check.forwards import EAGER, FULL, forward, no_graphs
from benchmarks.engines.gpu_check.steps import Capture, Step, random_steps
from benchmarks.engines.gpu_check.toy import ToyLayers, ToyMoe, config_of


def _tells_nothing(layer: int, ids: torch.Tensor) -> torch.Tensor | None:
    return None if layer == 1 else ids


def _replicas(layer: int, ids: torch.Tensor) -> torch.Tensor:
    """Ids beyond the model's own, for any model with up to 128 experts."""
    return ids + 128 if layer == 1 else ids


def _one_twice(layer: int, ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([ids[:, :1], ids[:, :-1]], dim=1) if layer == 1 else ids


def _next_row(layer: int, ids: torch.Tensor) -> torch.Tensor:
    return ids.roll(1, dims=0) if layer == 1 else ids


def _shuffled(step: Step) -> Step:
    slots = step.slots.clone()
    slots[: step.rows] = slots[: step.rows].flip(0)
    return replace(step, slots=slots)


def _one_short(step: Step) -> Step:
    slots = step.slots.clone()
    slots[step.rows - 1] = -1
    return replace(step, slots=slots)


IN_LAYERS: dict[str, Callable[[int, torch.Tensor], torch.Tensor | None]] = {
    "a layer that skips its copy": _tells_nothing,
    "ids of replicas, not of the model's experts": _replicas,
    "an expert reported twice for a token": _one_twice,
    "a layer's rows moved by one": _next_row,
}
IN_STEPS: dict[str, Callable[[Step], Step]] = {
    "permuted rows": _shuffled,
    "a row without its slot": _one_short,
}


def faults(model: ToyMoe) -> Iterator[Finding]:
    """Plant each, in full graphs if the device has graphs."""
    why = no_graphs(model.device)
    mode = EAGER if why else FULL
    step = max(random_steps(model, 8, seed=2), key=lambda step: step.rows)
    for name, fault in IN_LAYERS.items():
        yield _noticed(name, model, _capture(model, mode, step, fault), step)
    for name, change in IN_STEPS.items():
        yield _noticed(name, model, _capture(model, mode, step), step, change(step))
    yield _given_back_early(model, mode)
    name = "a stale replay: a graph made without the copies"
    yield skipped(name, why) if why else _stale_replay(name, model, step)


def _capture(
    model: ToyMoe,
    mode: str,
    step: Step,
    fault: Callable[[int, torch.Tensor], torch.Tensor | None] | None = None,
) -> Capture:
    model.silence()
    rows = ExpertRows(ToyLayers(model, fault), config_of(model))
    return Capture(model, rows, forward(mode, model, (len(step.tokens),)))


def _noticed(
    name: str, model: ToyMoe, capture: Capture, step: Step, changed: Step | None = None
) -> Finding:
    try:
        found, _ = capture.run([changed or step])
    except FailedStepError as error:
        return Finding(name, f"by the shim: {error}", NOTICED)
    return _beside_the_log(name, differing(found, logged(model, [step])))


def _beside_the_log(name: str, wrong: int) -> Finding:
    if wrong:
        return Finding(name, f"beside the log: {wrong} tokens differ", NOTICED, {"differ": wrong})
    return Finding(name, "not noticed", WRONG)


def _given_back_early(model: ToyMoe, mode: str) -> Finding:
    """Host memory that another step reuses before it has been read."""
    name = "host memory given back before it is read"
    second = random_steps(model, 1, seed=3)[0]
    first = replace(second, tokens=(second.tokens + 1) % model.size.vocabulary)
    capture = _capture(model, mode, first)
    host = capture.submit(first)
    capture.give_back(host)
    capture.submit(second)
    if host.copied is not None:
        host.copied.synchronize()
    found = capture.read(first, host)
    return _beside_the_log(name, differing([found], logged(model, [first])))


def _stale_replay(name: str, model: ToyMoe, step: Step) -> Finding:
    """Run a sound step first, so that a stale replay leaves plausible data in the buffer."""
    model.silence()
    stale = forward(FULL, model, (len(step.tokens),))
    rows = ExpertRows(ToyLayers(model), config_of(model))
    sound = Capture(model, rows, model.forward)
    sound.run([step])
    return _noticed(name, model, Capture(model, rows, stale), step)
