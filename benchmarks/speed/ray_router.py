"""What ELDR's request router adds to a Ray Serve call, beside Ray's own router.

One process calls two deployments of trivial replicas, one behind each router, in turn, one call at
a time; the daemon runs beside them. Runs in `.venv-ray` (`make setup-ray`).

Prints a table and writes build/bench/ray_router.json.
"""

import base64
import itertools
import statistics
import time
from typing import Any

import numpy as np
import ray
from eldr_client import Counts, WorkerSession
from eldr_client.counts import as_message
from eldr_ray import own_worker_id
from ray import serve
from ray.serve.config import RequestRouterConfig
from rich.console import Console
from rich.table import Table

from benchmarks.speed.rpc import daemon
from benchmarks.written import written

MODEL, GEOMETRY = "m", (48, 128, 8)  # Qwen3-30B-A3B's
CALLS = 400
TOKENS = 300


class Decode:
    """Answers at once."""

    def __init__(self, target: str) -> None:
        self.session = WorkerSession(
            own_worker_id(), MODEL, "serve://", target=target, geometry=GEOMETRY
        )

    async def __call__(self, body: dict[str, Any]) -> bool:
        """Whether it was told of a booking, or Ray's router has passed everything on."""
        return "eldr" in body["kv_transfer_params"]


def counts() -> str:
    """A prompt's counts, as in a prefill engine's answer."""
    layers, experts, top_k = GEOMETRY
    drawn = np.random.default_rng(0).multinomial(TOKENS * top_k, np.ones(experts) / experts, layers)
    return base64.b64encode(as_message(Counts(drawn, top_k), top_k).SerializeToString()).decode()


def deployed(name: str, target: str, router: RequestRouterConfig) -> Any:
    deployment = serve.deployment(
        Decode,
        name=name,
        num_replicas=2,
        request_router_config=router,
        ray_actor_options={"num_cpus": 0.1},
    )
    return serve.run(deployment.bind(target), name=name, route_prefix=None)


def main() -> None:
    ray.init(num_cpus=4, object_store_memory=80 * 2**20, include_dashboard=False)
    serve.start(proxy_location="Disabled")
    numbers, said = itertools.count(), counts()
    with daemon() as server:
        router = RequestRouterConfig(
            request_router_class="eldr_ray.router:EldrRequestRouter",
            request_router_kwargs={"router": server.address, "timeout": 1.0, "release_after": 0.0},
        )
        handles = {
            "Ray's": deployed("rays", server.address, RequestRouterConfig()),
            "ELDR's": deployed("eldrs", server.address, router),
        }

        def call(handle: Any) -> float:
            eldr = {"model": MODEL, "request_id": f"r{next(numbers)}", "counts": said}
            body = {"kv_transfer_params": {"eldr": eldr}}
            start = time.perf_counter()
            placed = handle.remote(body).result()
            seconds = time.perf_counter() - start
            assert placed, "the daemon had no answer in time"
            return seconds

        for _ in range(20):
            for handle in handles.values():
                call(handle)
        taken: dict[str, list[float]] = {name: [] for name in handles}
        for _ in range(CALLS):
            for name, handle in handles.items():
                taken[name].append(call(handle))
    serve.shutdown()
    ray.shutdown()
    medians = {name: statistics.median(times) for name, times in taken.items()}
    table = Table("request router", "call, ms, median", "p95")
    for name, times in taken.items():
        p95 = statistics.quantiles(times, n=20)[-1]
        table.add_row(name, f"{medians[name] * 1e3:.2f}", f"{p95 * 1e3:.2f}")
    Console().print(table)
    written("ray_router", {"seconds": medians, "ratio": medians["ELDR's"] / medians["Ray's"]})


if __name__ == "__main__":
    main()
