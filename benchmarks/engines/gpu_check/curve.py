"""Step time against active experts on this device: the effect that ELDR exploits."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.engines.gpu_check.cost import seconds_a_step
from benchmarks.engines.gpu_check.forwards import EAGER, FULL, forward, no_graphs
from benchmarks.engines.gpu_check.toy import ToyMoe
from benchmarks.speed.paired import RESAMPLES

POINTS = 6
STEPS_A_TURN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The curve for batches of `rows`.

    Attributes
    ----------
    active : list of int
        Distinct experts per layer.
    us : list of float
        Time of one layer: medians over the turns.
    base_us, slope_us : float
        The line: us per layer = base_us + slope_us * active.
    low, high : float
        95% interval of slope_us, by bootstrap over the turns.
    r_squared : float
    gb_per_second : float
        Rate at which an additional expert's weights are read, from the slope.
    """

    rows: int
    active: list[int]
    us: list[float]
    base_us: float
    slope_us: float
    low: float
    high: float
    r_squared: float
    gb_per_second: float


def curves(model: ToyMoe, turns: int) -> tuple[str, list[Curve]]:
    """How the steps are run, and a curve per batch size."""
    mode = EAGER if no_graphs(model.device) else FULL
    sizes = model.size.graph_sizes
    return mode, [_curve(model, mode, rows, turns) for rows in sizes[-4:-1]]


def _curve(model: ToyMoe, mode: str, rows: int, turns: int) -> Curve:
    model.silence()
    size = model.size
    kept = [router.scores.clone() for router in model.routers]
    run = forward(mode, model, (rows,))
    tokens = torch.arange(rows, device=model.device)
    most = min(size.experts, rows * size.top_k)
    active = np.unique(np.linspace(size.top_k, most, POINTS).round().astype(int))
    rng = np.random.default_rng(5)
    measured = np.zeros((turns, len(active)))
    for turn in range(-1, turns):
        for point in rng.permutation(len(active)):
            _restrict(model, rows, int(active[point]), rng)
            run(tokens)
            seconds = seconds_a_step(lambda: run(tokens), model.device, STEPS_A_TURN)
            if turn >= 0:
                measured[turn, point] = 1e6 * seconds / size.layers
    for router, scores in zip(model.routers, kept, strict=True):
        router.scores.copy_(scores)
    return _fitted(rows, active, measured, size.expert_bytes)


def _restrict(model: ToyMoe, rows: int, active: int, rng: np.random.Generator) -> None:
    """Make the tokens below `rows` use exactly `active` experts of each layer."""
    size = model.size
    for router in model.routers:
        experts = rng.permutation(size.experts)[:active]
        picks = experts[np.arange(rows * size.top_k).reshape(rows, size.top_k) % active]
        router.scores[:rows] = 0
        there = torch.from_numpy(picks).to(model.device)
        router.scores[:rows] = router.scores[:rows].scatter(1, there, 1.0)


def _fitted(
    rows: int, active: NDArray[np.int64], measured: NDArray[np.float64], expert_bytes: int
) -> Curve:
    us = np.median(measured, axis=0)
    slope, base = np.polyfit(active, us, 1)
    drawn = np.random.default_rng(0).integers(len(measured), size=(RESAMPLES, len(measured)))
    slopes = np.polyfit(active, np.median(measured[drawn], axis=1).T, 1)[0]
    low, high = np.percentile(slopes, [2.5, 97.5])
    left = us - (base + slope * active)
    spread = float(((us - us.mean()) ** 2).sum())
    return Curve(
        rows=rows,
        active=active.tolist(),
        us=us.tolist(),
        base_us=float(base),
        slope_us=float(slope),
        low=float(low),
        high=float(high),
        r_squared=1 - float((left**2).sum()) / spread if spread else 1.0,
        gb_per_second=expert_bytes / slope / 1e3 if slope > 0 else float("nan"),
    )


def document(mode: str, found: list[Curve]) -> dict[str, Any]:
    """The curves for programs."""
    return {"mode": mode, "batches": [asdict(curve) for curve in found]}
