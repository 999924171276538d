"""The daemon and the engines as child processes that end with the demo, however it ends."""

import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from eldr.v1 import fleet_pb2, fleet_pb2_grpc

# The first start compiles kernels: some seconds, several times that on a busy machine.
START_SECONDS = 90.0
CHECKOUT = Path(__file__).parents[3]


class DemoError(Exception):
    """The demo cannot continue; the message says why."""


@contextmanager
def running_daemon(directory: Path) -> Iterator[dict[str, str]]:
    """`eldr-server` on free ports, keeping nothing; yields its addresses, `grpc` and `http`."""
    ports = directory / "ports.json"
    server = Path(sysconfig.get_path("scripts")) / "eldr-server"
    options = {
        "listen": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "state": ":memory:",
        "port-file": str(ports),
        "log-level": "warning",
        "drain-seconds": "0",
        "refit": "off",  # every policy must have the same partition
        "report-limit": "3600",  # the engines report as virtual time advances
    }
    command = [str(server), *(f"--{name}={value}" for name, value in options.items())]
    with _child(command, directory / "daemon.log") as child:
        _wait_for(ports.exists, child, directory / "daemon.log")
        yield json.loads(ports.read_text())


@contextmanager
def running_engines(
    directory: Path, daemon: str, model: str, recording: str, cost: str, labels: list[str]
) -> Iterator[str]:
    """One engine per label; yields their address, which they have registered with the daemon."""
    options = {
        "daemon": daemon,
        "model": model,
        "recording": recording,
        "cost": cost,
        "labels": json.dumps(labels),
    }
    command = [sys.executable, "-m", "benchmarks.demos.demo.engines"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with _child(command, directory / "engines.log") as child, grpc.insecure_channel(daemon) as c:
        fleet = fleet_pb2_grpc.FleetServiceStub(c)
        workers: list[fleet_pb2.Worker] = []

        def all_report() -> bool:
            workers[:] = fleet.ListWorkers(fleet_pb2.ListWorkersRequest()).workers
            return len(workers) == len(labels) and all(w.HasField("report_time") for w in workers)

        _wait_for(all_report, child, directory / "engines.log")
        yield workers[0].url.removeprefix("http://")


@contextmanager
def _child(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=CHECKOUT
        ) as child,
    ):
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait_for(ready: Callable[[], bool], child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            what = "ended" if child.poll() is not None else f"not ready in {START_SECONDS:.0f} s"
            raise DemoError(f"{log.stem}: {what}\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
