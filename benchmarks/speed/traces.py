"""What traces cost the daemon: `Route` over the wire with every request traced, with none, and off.

Three real `eldr-server`s take turns in answering this process, as in benchmarks.speed.rpc. One has
traces off, as by default; one has them on and samples none; one samples every request and sends its
spans to a receiver in another process. With traces off, a request runs no tracing code, so only
their cost when on needs measuring.

Prints a table and writes build/bench/traces.json.
"""

import argparse
import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import numpy as np

from benchmarks.speed import paired, rpc
from benchmarks.speed.signatures import drawn_counts

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SAMPLERS = {"none sampled": "always_off", "every request": "always_on"}


def serve_receiver() -> None:
    """Accept spans until told to stop; prints the address."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            taken = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
            return taken if details.method == EXPORT else None

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


@contextmanager
def traced_daemon(endpoint: str, sampler: str) -> Iterator[rpc.Server]:
    """A daemon whose environment turns traces on."""
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": sampler}
    os.environ.update(asked)
    try:
        with rpc.daemon() as server:
            for name in asked:
                del os.environ[name]
            yield server
    finally:
        for name in asked:
            os.environ.pop(name, None)


def measure(turns: int, seconds: float) -> dict[str, Any]:
    counts = drawn_counts(256)
    bodies = rpc.requests(counts)
    with ExitStack() as stack:
        receiver = stack.enter_context(
            rpc.process("-m", "benchmarks.speed.traces", "--serve-receiver")
        )
        assert receiver.stdout
        endpoint = receiver.stdout.readline().strip()
        servers = {"off": stack.enter_context(rpc.daemon())}
        for name, sampler in SAMPLERS.items():
            servers[name] = stack.enter_context(traced_daemon(endpoint, sampler))
        for server in servers.values():
            rpc.set_up(server.address, counts)

        def see(name: str) -> tuple[float, float]:
            """Calls per second, and the daemon's processor time per call in microseconds."""
            server = servers[name]
            before = server.processor_seconds()
            took = asyncio.run(rpc.unary(server.address, rpc.ROUTE, bodies, seconds))
            used = server.processor_seconds() - before
            return len(took) / seconds, 1e6 * used / len(took)

        for name in servers:
            see(name)  # warm up
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for turn in range(turns):
            for name in list(servers)[:: -1 if turn % 2 else 1]:
                seen[name].append(see(name))
    rates = {name: [rate for rate, _ in values] for name, values in seen.items()}
    times = {name: [time for _, time in values] for name, values in seen.items()}
    ratios = {}
    for name in SAMPLERS:
        ratios[f"{name}, calls/s"] = paired.ratio(rates[name], rates["off"])
        ratios[f"{name}, us of processor each"] = paired.ratio(times[name], times["off"], less=True)
    medians = {name: np.median(values, axis=0).tolist() for name, values in seen.items()}
    return {"medians": medians, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve-receiver", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement")
    paired.add_options(parser, "traces")
    options = parser.parse_args()
    if options.serve_receiver:
        serve_receiver()
    else:
        result = measure(options.turns, options.seconds)
        paired.finish("Traces, against none", result, {}, options)


if __name__ == "__main__":
    main()
