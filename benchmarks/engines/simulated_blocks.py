"""The simulator against real engines, as recorded by `make demo-vllm ARGS='--record FOLDER'`.

    python -m benchmarks.engines.simulated_blocks FOLDER [--cost NAME|FILE]

Each block is simulated with the requests that each real engine was given, in the same order and as
many in flight, and with the experts that their tokens actually used. The simulator contributes what
it is trusted with elsewhere: which experts a step uses together, how long it takes (one cost,
fitted to all recorded steps), and so when requests end and how full batches are. Prints TPOT and
active experts per policy, measured and simulated, the changes between policies in both, and the
active experts of the engines' own steps beside those that they reported.
"""

import argparse
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.written import written
from eldr_service.lab.recordings.frames import SUFFIX, read_frames
from eldr_service.lab.simulation.comparison import interval
from eldr_service.lab.simulation.cost import StepCost, load_cost
from eldr_service.lab.simulation.decode_pool import DecodePool
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.pool_statistics import Finished

TICK_S = 0.002  # resolution at which ends are noticed
FEWEST_TOKENS = 8  # of an answer in a block for its TPOT to count


@dataclass(frozen=True, eq=False)
class Decodes:
    """What one engine recorded, in order of the requests' first tokens.

    Attributes
    ----------
    first_s, end_s : ndarray of float64, shape [n]
        Unix seconds of each request's first token and end.
    tokens : list of ndarray, each [tokens, layers, top_k]
        Their experts.
    steps : ndarray of float64, shape [steps, 4]
        End, seconds, sequences, distinct experts summed over layers; decode-only steps.
    """

    first_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    tokens: list[NDArray[np.integer]]
    steps: NDArray[np.float64]


def read(folder: Path) -> Iterator[tuple[Decodes, int]]:
    """Each decode engine's recording, and the model's number of experts."""
    for path in sorted(folder.glob(f"*decode*{SUFFIX}")):
        frames, _ = read_frames(path)

        def column(name: str, frames: list[Any] = frames) -> NDArray[Any]:
            return np.concatenate([f.columns[name] for f in frames if name in f.columns])

        times, own = column("decodes.times"), column("decodes.sequence")
        of, experts = column("tokens.sequence"), column("tokens.experts")
        order = np.argsort(of, kind="stable")
        first, after = (np.searchsorted(of, own, side, sorter=order) for side in ("left", "right"))
        sizes, when = column("steps.sizes").astype(float), column("steps.times")
        alone = sizes[:, 0] == sizes[:, 1]
        yield (
            Decodes(
                times[:, 1],
                times[:, 2],
                [experts[order[a:b]] for a, b in zip(first, after, strict=True)],
                np.column_stack([when, sizes[:, [0, 3]]])[alone],
            ),
            int(frames[0].about["num_experts"]),
        )


Figures = dict[str, float]


def measured(engines: list[Decodes], since: float, until: float) -> Figures:
    """TPOT and active experts of a block, as the engines recorded them."""
    tpot, experts, tokens = [], 0.0, 0.0
    for engine in engines:
        for i in _begun(engine, since, until):
            made = len(engine.tokens[i])
            if made >= FEWEST_TOKENS:
                tpot.append((engine.end_s[i] - engine.first_s[i]) / made)
        end, _, batch, active = engine.steps.T
        mine = (end >= since) & (end < until)
        layers = engine.tokens[0].shape[1]
        experts += float((batch * active)[mine].sum()) / layers
        tokens += float(batch[mine].sum())
    return _figures(tpot, experts / tokens)


def simulated(
    engines: list[Decodes],
    num_experts: int,
    cost: StepCost,
    since: float,
    until: float,
    in_flight: int,
) -> Figures:
    """The same for simulated engines, given the same requests in the same order.

    As many are in flight at any time: the first start when they really did, and the k-th later one
    as long after the k-th end as it really did.
    """
    real = sorted(
        (_step_before(engine, engine.first_s[i]) - since, engine.end_s[i] - since, number, i)
        for number, engine in enumerate(engines)
        for i in _begun(engine, since, until)
        if len(engine.tokens[i])
    )
    ends = sorted(end for _, end, _, _ in real)
    tokens = [engines[number].tokens[i] for _, _, number, i in real]
    place = np.cumsum([0, *map(len, tokens)])
    pool = DecodePool(np.concatenate(tokens), num_experts, [Engine(cost)] * len(engines))
    begins = [(begin, k) for k, (begin, _, _, _) in enumerate(real[:in_flight])]
    done: list[Finished] = []
    now = 0.0
    while begins or len(done) < len(real):
        now = begins[0][0] if begins and begins[0][0] < now + TICK_S else now + TICK_S
        for each in pool.advance(now):
            k = in_flight + len(done)
            if k < len(real):
                after = real[k][0] - ends[len(done)]
                heapq.heappush(begins, (max(each.end_s + after, now), k))
            done.append(each)
        while begins and begins[0][0] <= now:
            _, k = heapq.heappop(begins)
            pool.start(now, real[k][2], k, slice(int(place[k]), int(place[k + 1])))
    tpot = [d.tpot_s for d in done if d.tokens > FEWEST_TOKENS]
    return _figures(tpot, pool.statistics().active_experts)


def _begun(engine: Decodes, since: float, until: float) -> NDArray[np.int64]:
    return np.flatnonzero((engine.first_s >= since) & (engine.first_s < until))


def _step_before(engine: Decodes, first_s: float) -> float:
    """When the step that generated a first token began."""
    at = int(np.searchsorted(engine.steps[:, 0], first_s - 1e-4))
    at = min(at, len(engine.steps) - 1)
    return first_s - float(engine.steps[at, 1])


def _figures(tpot: list[float], experts: float) -> Figures:
    p50, p99 = np.percentile(tpot, [50, 99])
    return {"p50": p50, "p99": p99, "mean": float(np.mean(tpot)), "active_experts": experts}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.simulated_blocks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--cost", help="step cost, as for `eldr simulate`; default: fitted to the recorded steps"
    )
    options = parser.parse_args()
    folder = options.folder
    read_all = list(read(folder / "engines"))
    engines, num_experts = [each for each, _ in read_all], read_all[0][1]
    cost = load_cost(options.cost or str(folder / "engines"))
    console = Console(width=130)
    console.print(cost.source)
    document: dict[str, Any] = {"cost": cost.source}
    for path in sorted(folder.glob("blocks-*.json")):
        said = json.loads(path.read_text())
        blocks = said["blocks"]
        both: dict[str, list[tuple[Figures, Figures]]] = {policy: [] for policy in blocks[0]}
        for block in blocks:
            for policy, at in block.items():
                when = at["since"], at["until"]
                real = measured(engines, *when) | {"reported": at["active_experts"]}
                model = simulated(engines, num_experts, cost, *when, said["in_flight"])
                both[policy].append((real, model))
        console.print(_table(path.stem, both))
        document[path.stem] = both
    written("simulated_blocks", document)


def _table(name: str, both: dict[str, list[tuple[Figures, Figures]]]) -> Table:
    table = Table("", "FIGURE", "MEASURED", "SIMULATED", "DIFFERENCE", title=name)
    policies = list(both)
    for policy in policies:
        for figure, scale in (("mean", 1e3), ("active_experts", 1.0)):
            real, model = (np.array([b[i][figure] for b in both[policy]]) for i in (0, 1))
            table.add_row(
                policy,
                "TPOT mean, ms" if figure == "mean" else "active experts",
                f"{real.mean() * scale:.2f}",
                f"{model.mean() * scale:.2f}",
                f"{model.mean() / real.mean() - 1:+.1%};"
                f" per block {np.abs(model / real - 1).mean():.1%}",
            )
        said = np.array([b[0]["reported"] for b in both[policy]])
        own = np.array([b[0]["active_experts"] for b in both[policy]])
        table.add_row(
            policy, "reported to the daemon", f"{said.mean():.2f}", "",
            f"{said.mean() / own.mean() - 1:+.1%} of the engines' own",
        )  # fmt: skip
    for policy in policies[1:]:
        for figure in ("mean", "p50", "p99", "active_experts"):
            real, model = (
                np.array([b[i][figure] for b in both[policy]])
                / np.array([b[i][figure] for b in both[policies[0]]])
                - 1
                for i in (0, 1)
            )
            low, high = interval(model - real) or (np.nan, np.nan)
            table.add_row(
                f"{policy} against {policies[0]}",
                figure,
                f"{real.mean():+.1%}",
                f"{model.mean():+.1%}",
                f"{(model - real).mean():+.1%} [{low:+.1%}, {high:+.1%}]",
            )
    return table


if __name__ == "__main__":
    main()
