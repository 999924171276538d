"""The capture against the log: eager, in pieces, as one graph; two batches in flight."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from eldr_vllm.worker.capture import ExpertRows
from eldr_vllm.worker.checks import FailedStepError
from numpy.typing import NDArray

from benchmarks.engines.gpu_check.findings import WRONG, Finding, compared, skipped
from benchmarks.engines.gpu_check.forwards import EAGER, MODES, forward, no_graphs
from benchmarks.engines.gpu_check.steps import IN_FLIGHT, Capture, Step, random_steps
from benchmarks.engines.gpu_check.toy import ToyLayers, ToyMoe, config_of

Experts = NDArray[np.integer]


def logged(model: ToyMoe, steps: Sequence[Step]) -> list[Experts]:
    """Experts [rows, layers, top_k] of each step, by cloning each layer's ids in an eager run."""
    model.silence()
    found = []
    for step in steps:
        ids: list[torch.Tensor] = []
        for router in model.routers:
            router.log = lambda told, ids=ids: ids.append(told.clone())
        model.forward(step.tokens)
        found.append(torch.stack(ids, dim=1)[: step.rows].cpu().numpy())
    model.silence()
    return found


def known(model: ToyMoe, steps: Sequence[Step]) -> list[Experts]:
    """The same by sorting the routers' scores on the host, without running the model."""
    best = []
    for router in model.routers:
        scores = router.scores.cpu().numpy()
        best.append(np.argsort(-scores, axis=1)[:, : model.size.top_k])
    table = np.stack(best, axis=1)
    return [table[step.tokens[: step.rows].cpu().numpy()] for step in steps]


def differing(ours: Sequence[Experts], theirs: Sequence[Experts]) -> int:
    """Number of tokens whose experts differ."""
    return sum(
        int((a != b).any(axis=(1, 2)).sum()) if a.shape == b.shape else len(b)
        for a, b in zip(ours, theirs, strict=True)
    )


def exactness(model: ToyMoe, count: int) -> Iterator[Finding]:
    """Check each way to run the model, with `count` random steps."""
    steps = random_steps(model, count, seed=1)
    log = logged(model, steps)
    tokens = sum(step.rows for step in steps)
    wrong = differing(known(model, steps), log)
    yield compared(
        "the log, against the host's own top-k",
        f"{wrong} of {tokens:,} tokens differ",
        wrong == 0,
        tokens=tokens,
        differ=wrong,
    )
    for mode in MODES:
        why = no_graphs(model.device)
        yield skipped(mode, why) if why and mode != EAGER else _of(mode, model, steps, log)


def _of(mode: str, model: ToyMoe, steps: Sequence[Step], log: list[Experts]) -> Finding:
    model.silence()
    rows = ExpertRows(ToyLayers(model), config_of(model))
    capture = Capture(model, rows, forward(mode, model, model.size.graph_sizes))
    try:
        found, ahead = capture.run(steps)
    except FailedStepError as error:
        return Finding(mode, f"the shim's checks refuse a sound step: {error}", WRONG)
    wrong, tokens = differing(found, log), sum(step.rows for step in steps)
    flight = f"{IN_FLIGHT} in flight"
    if model.device.type != "cpu":
        flight += f", device behind {ahead} times"
    return compared(
        mode,
        f"{wrong} of {tokens:,} tokens differ; {len(steps)} steps, {flight}",
        wrong == 0,
        tokens=tokens,
        differ=wrong,
        steps=len(steps),
        device_behind=ahead,
    )
