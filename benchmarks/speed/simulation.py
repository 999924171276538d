"""How fast the simulator is: tokens per second on one core, at 24 layers.

Synthetic routing of 24 layers x 32 experts, top-4; 16 workers, 256 tokens per request. *Engines* is
the decode pool alone; the others are whole runs, with the router and a policy. The baseline, in the
same run, is the same steps in plain NumPy, one step per call. Processor time, one process.

Prints a table and writes build/bench/simulation.json.
"""

import platform
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.written import written
from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.decode_pool import DecodePool
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.registry import create

WORKERS, OUTPUT = 16, 256
BATCHES = (8, 24)
ROUNDS = 3


def best_rate(run: Callable[[], int]) -> float:
    """Tokens per second of processor time, the best of several rounds after a warm-up."""
    run()
    rates = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        tokens = run()
        rates.append(tokens / (time.process_time() - begun))
    return max(rates)


def main() -> None:
    recording = SyntheticRouting(layers=24, requests=400, decode_tokens=OUTPUT).generate()
    ids = recording.expert_ids
    assert ids is not None
    experts = recording.geometry.num_experts
    cost = built_in_costs()["gpt-oss-120b-h200"]
    engines = (Engine(cost),) * WORKERS
    rows = {}
    for batch in BATCHES:

        def plain(batch: int = batch, steps: int = 200) -> int:
            layers = np.arange(ids.shape[1])[:, None]
            tokens = np.array([recording.decode(r).start for r in range(batch)])
            for _ in range(steps):
                touched = np.zeros((ids.shape[1], experts), bool)
                touched[layers, ids[tokens]] = True
                cost.step_seconds(touched.sum(axis=1), batch)
                tokens += 1
            return steps * batch

        def pool(batch: int = batch) -> int:
            pool = DecodePool(ids, experts, engines)
            for i in range(WORKERS * batch):
                pool.start(0.0, i % WORKERS, i, recording.decode(i), output_tokens=OUTPUT)
            pool.advance(np.inf)
            return pool.statistics().tokens

        rows[f"batch {batch}: plain NumPy"] = best_rate(plain)
        rows[f"batch {batch}: engines"] = best_rate(pool)
    for rate in (100.0, 250.0):
        workload = Workload.draw(recording, Traffic(5.0, rate, output_tokens=OUTPUT), seed=0)
        counts = recording.prefill_counts()[workload.fitted]
        partition = fit_partition("m", counts, recording.geometry, n_clusters=WORKERS)
        for policy in ("round-robin", "locality-band"):

            def whole(policy=policy, workload=workload, partition=partition) -> int:
                made = create(policy, {})
                return int(simulate(workload, made, Deployment(engines), partition).tokens.sum())

            rows[f"{rate:g}/s: {policy}"] = best_rate(whole)
    table = Table("WHAT", "TOKENS PER SECOND, ONE CORE", title="The simulator, 24 layers")
    for name, tokens in rows.items():
        table.add_row(name, f"{tokens:,.0f}")
    Console().print(table)
    written("simulation", {"machine": platform.processor(), "tokens_per_second": rows})


if __name__ == "__main__":
    main()
