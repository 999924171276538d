"""What the page and the estimates in the metrics cost, and how soon a browser shows it.

A model of 48 layers x 128 experts, top-8, on 24 workers gets 300 requests per second, of which 192
run at a time. They go in turn to a daemon whose page was never opened, and to one whose page has
one viewer, then ten. The daemons' processor time and `Route`'s latency at the caller are compared
in the same run. If Chromium is installed, the first paint is measured too.

    python -m benchmarks.speed.page [--rounds N]

Prints a table and writes build/bench/page.json.
"""

import argparse
import shutil
import statistics
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
from eldr.v1 import activation_pb2, fleet_pb2, fleet_pb2_grpc, router_pb2, router_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.speed.rpc import daemon
from benchmarks.written import written

LAYERS, EXPERTS, TOP_K, TOKENS = 48, 128, 8, 200
WORKERS, RATE, RUNNING, SECONDS = 24, 300.0, 192, 10.0
VIEWERS = {"none, off": 0, "scraped": 0, "1": 1, "10": 10}
OFF = next(iter(VIEWERS))


def signatures(number: int) -> list[activation_pb2.ActivationCounts]:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(EXPERTS, 0.3), size=LAYERS)
    return [
        activation_pb2.ActivationCounts(
            num_layers=LAYERS,
            layers_present=LAYERS,
            num_experts=EXPERTS,
            top_k=TOP_K,
            num_tokens=TOKENS,
            dense_u16=rng.multinomial(TOKENS * TOP_K, share).astype("<u2").tobytes(),
        )
        for _ in range(number)
    ]


@contextmanager
def viewer(http: str) -> Iterator[None]:
    """A viewer of the page."""
    stopping = threading.Event()
    answer = urllib.request.urlopen(f"http://{http}/page/events")

    def read() -> None:
        while not stopping.is_set():
            answer.readline()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        answer.close()


def processor_seconds(http: str) -> float:
    with urllib.request.urlopen(f"http://{http}/metrics") as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                if sample.name == "process_cpu_seconds_total":
                    return sample.value
    raise RuntimeError("the daemon's metrics have no processor time")


class Traffic:
    """Requests at a steady rate; the oldest are released as new ones arrive."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._router = router_pb2_grpc.RouterServiceStub(channel)
        self._signatures = signatures(64)
        self._running: deque[str] = deque()
        self._number = 0

    def drive(self, seconds: float) -> list[float]:
        """Seconds that each Route took."""
        took = []
        start = time.perf_counter()
        for turn in range(int(seconds * RATE)):
            time.sleep(max(0.0, start + turn / RATE - time.perf_counter()))
            self._number += 1
            request = router_pb2.RouteRequest(
                model="m", request_id=f"r{self._number}", counts=self._signatures[turn % 64]
            )
            began = time.perf_counter()
            self._router.Route(request)
            took.append(time.perf_counter() - began)
            self._running.append(request.request_id)
            if len(self._running) > RUNNING:
                done = self._running.popleft()
                self._router.Release(router_pb2.ReleaseRequest(model="m", request_id=done))
        return took


def first_paint_ms(http: str) -> float | None:
    """Median of five, each with an empty cache; None without Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(5):
            page = browser.new_context().new_page()
            page.goto(f"http://{http}/")
            page.locator("#fleet tbody tr").first.wait_for()
            entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            found.append(float(page.evaluate(entry)))
            page.close()
        browser.close()
    return statistics.median(found)


@contextmanager
def served(*flags: str) -> Iterator[tuple[str, Traffic]]:
    """A warmed-up daemon with workers: its HTTP address, and its traffic."""
    with (
        daemon("--log-level=error", "--policy=marginal-cost", *flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        geometry = activation_pb2.ModelGeometry(num_layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K)
        for number in range(WORKERS):
            fleet.RegisterWorker(
                fleet_pb2.RegisterWorkerRequest(
                    worker_id=f"decode-{number}", model="m", url="u", geometry=geometry
                )
            )
        traffic = Traffic(channel)
        traffic.drive(SECONDS)  # until it is compiled, full, and has a first partition
        yield server.http, traffic


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.page", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cores: dict[str, list[float]] = {who: [] for who in VIEWERS}
    p99: dict[str, list[float]] = {who: [] for who in VIEWERS}
    with served("--load-comparison=off") as unwatched, served() as watched:
        with viewer(watched[0]):
            watched[1].drive(SECONDS)
        for _ in range(rounds):
            for who, number in VIEWERS.items():
                http, traffic = unwatched if who == OFF else watched
                with ExitStack() as looking:
                    for _ in range(number):
                        looking.enter_context(viewer(http))
                    before, began = processor_seconds(http), time.perf_counter()
                    took = traffic.drive(SECONDS)
                    used = processor_seconds(http) - before
                    cores[who].append(used / (time.perf_counter() - began))
                    p99[who].append(float(np.percentile(took, 99)))
        paint = first_paint_ms(watched[0])
    table = Table("viewers", "daemon, % of a core", "more", "ratio", "Route p99, ms", "ratio")
    rows = []
    for who in VIEWERS:
        more = statistics.median(np.subtract(cores[who], cores[OFF]))
        core_ratio = statistics.median(np.divide(cores[who], cores[OFF]))
        ratio = statistics.median(np.divide(p99[who], p99[OFF]))
        row = {
            "viewers": who,
            "core": statistics.median(cores[who]),
            "more_core": more,
            "core_ratio": core_ratio,
            "p99_s": statistics.median(p99[who]),
            "p99_ratio": ratio,
        }
        rows.append(row)
        table.add_row(
            who,
            f"{100 * row['core']:.1f}",
            f"{100 * more:+.1f}",
            f"{core_ratio:.2f}",
            f"{1e3 * row['p99_s']:.2f}",
            f"{ratio:.2f}",
        )
    console = Console()
    console.print(table)
    console.print("first paint:", "no Chromium" if paint is None else f"{paint:.0f} ms")
    written("page", {"rows": rows, "first_paint_ms": paint})


if __name__ == "__main__":
    main()
