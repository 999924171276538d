"""Everything that is measured, running and warmed up: daemon, engines, proxy."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demos.demo_vllm import engines as vllm
from benchmarks.demos.demo_vllm.client import Client
from benchmarks.demos.demo_vllm.engines import CHECKOUT, Engine
from benchmarks.demos.demo_vllm.fleet import Fleet
from benchmarks.demos.demo_vllm.memory import available_gb, engines_that_fit
from benchmarks.demos.demo_vllm.processes import DemoError, Processes, free_port

START_SECONDS = 90.0
ROUTE_SECONDS = 0.25
"""How long the proxy waits for the daemon: with engines on every core, its default of 10 ms is
too short."""

EXPERTS = 4 * 32
PREFILL_EXPERT_MB = 1.0
"""Small, as the prefill engine shares the processors with the decode engines here."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """The system that blocks are driven through."""

    prefill: list[Engine]
    decode: list[Engine]
    model: str
    fleet: Fleet
    client: Client
    processes: Processes
    # URLs of other routers in front of the same engines, by name.
    peers: dict[str, str]


@contextmanager
def own_rig(
    folder: Path,
    decode: int,
    expert_mb: float,
    vllm_router: str | None,
    record: Path | None,
    say: Say,
) -> Iterator[Rig]:
    """One prefill engine and up to `decode` decode engines of the small model, widened.

    They record to the folder `record`, unless it is None.
    """
    decode = _affordable(decode, expert_mb, say)
    say(f"widening the model to {expert_mb:g} MB per expert")
    narrow, wide = (_widened(folder, mb) for mb in (min(PREFILL_EXPERT_MB, expert_mb), expert_mb))
    with Processes(folder) as processes:
        say("starting the daemon")
        router = _start_daemon(processes, folder)
        names = [f"decode-{number}" for number in range(1, decode + 1)]
        prefills = [vllm.start(processes, "prefill", "kv_producer", narrow, router, record)]
        decodes = [
            vllm.start(processes, name, "kv_consumer", wide, router, record) for name in names
        ]
        _await(prefills + decodes, processes, say)
        _share_processors(processes, names)
        with _proxied(processes, router, prefills, decodes, vllm_router, say) as rig:
            yield rig


@contextmanager
def existing_rig(
    folder: Path,
    router: str,
    prefill: list[str],
    decode: list[str],
    vllm_router: str | None,
    say: Say,
) -> Iterator[Rig]:
    """Engines already running, with ELDR's connector, and the daemon that they report to.

    The daemon's policy is restored at the end; the fitted partition stays active.
    """
    prefills, decodes = [Engine(url) for url in prefill], [Engine(url) for url in decode]
    with Processes(folder) as processes:
        _await(prefills + decodes, processes, say)
        # vLLM's workers all bind their first thread to the same processor, even with "nobind".
        processes.unbind()
        with _proxied(processes, router, prefills, decodes, vllm_router, say) as rig:
            before = rig.fleet.policy
            try:
                yield rig
            finally:
                if before:
                    rig.fleet.set_policy(before)


@contextmanager
def _proxied(
    processes: Processes,
    router: str,
    prefill: list[Engine],
    decode: list[Engine],
    vllm_router: str | None,
    say: Say,
) -> Iterator[Rig]:
    model = prefill[0].model()
    with closing(Fleet(router, model)) as fleet:
        say("waiting for the decode engines to register")
        fleet.await_workers([engine.url for engine in decode], START_SECONDS, processes.check)
        for one in prefill:
            for number, other in enumerate(decode, 1):
                say(f"warming up: transferring KV, pair {number} of {len(decode)}")
                vllm.warm_up(one, other, model, "A prompt of more than one block, to warm up. " * 4)
        say("starting the proxy")
        proxy = _start_proxy(processes, router, prefill, decode)
        peers = {}
        if vllm_router:
            say("starting vllm-router")
            peers["vllm-router"] = _start_vllm_router(processes, vllm_router, prefill, decode)
        yield Rig(
            prefill=prefill,
            decode=decode,
            model=model,
            fleet=fleet,
            client=Client(proxy, model, fleet),
            processes=processes,
            peers=peers,
        )


def _affordable(decode: int, expert_mb: float, say: Say) -> int:
    free, weights = available_gb(), EXPERTS * expert_mb / 1e3
    fit = engines_that_fit(weights, free) - 1
    if fit < 2:
        raise DemoError(
            f"{free:.1f} GB of memory available, too little for a prefill and two decode engines"
            f" of {weights:.1f} GB of weights each; --expert-mb makes them smaller"
        )
    if fit < decode:
        say(f"memory is short ({free:.1f} GB available): {fit} decode engines instead of {decode}")
    return min(fit, decode)


def _widened(folder: Path, expert_mb: float) -> Path:
    """Widen the model in vLLM's environment, as this one has no torch."""
    target = folder / f"model-{expert_mb:g}"
    command = [vllm.PYTHON, "-m", "benchmarks.engines.tiny_moe.widen", str(target)]
    done = subprocess.run(
        [*command, f"--expert-mb={expert_mb}"], cwd=CHECKOUT, capture_output=True, text=True
    )
    if done.returncode:
        raise DemoError(f"the model could not be widened:\n{done.stderr[-2000:]}")
    return target


def _share_processors(processes: Processes, decode: list[str]) -> None:
    """Put equally many decode engines on each processor; other processes run on any.

    vLLM's workers all bind their first thread to the same processor, even with "nobind"; and if it
    is left to the kernel, three engines may share one processor while the fourth has the other.
    """
    processors = sorted(os.sched_getaffinity(0))
    processes.bind("prefill", processors)
    for number, name in enumerate(decode):
        processes.bind(name, [processors[number % len(processors)]])


def _start_daemon(processes: Processes, folder: Path) -> str:
    ports = folder / "ports.json"
    code = "from eldr_service.server import main; main()"
    options = {
        "listen": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "state": ":memory:",
        "port-file": ports,
        "log-level": "warning",
        "drain-seconds": 0,
        "refit": "off",  # every policy must have the same partition
        "report-interval": 0.5,  # so that short blocks have reports of active experts
        "report-limit": 10,
    }
    command = [sys.executable, "-c", code, *(f"--{k}={v}" for k, v in options.items())]
    processes.start("daemon", command, {})
    _await_true(ports.exists, processes, "the daemon")
    return str(json.loads(ports.read_text())["grpc"])


def _start_proxy(
    processes: Processes, router: str, prefill: list[Engine], decode: list[Engine]
) -> str:
    proxy = Engine(f"http://127.0.0.1:{free_port()}")
    code = "from eldr_vllm.proxy.cli import main; main()"
    command = [sys.executable, "-c", code, f"--listen={proxy.url.removeprefix('http://')}"]
    command += [f"--router={router}", f"--route-timeout={ROUTE_SECONDS}", "--connect-timeout=10"]
    command += ["--prefill", *(engine.url for engine in prefill)]
    command += ["--decode", *(engine.url for engine in decode)]
    path = os.pathsep.join([str(CHECKOUT / "clients/vllm"), os.environ.get("PYTHONPATH", "")])
    processes.start("proxy", command, {"PYTHONPATH": path})
    _await_true(lambda: proxy.is_healthy, processes, "the proxy")
    return proxy.url


def _start_vllm_router(
    processes: Processes, command: str, prefill: list[Engine], decode: list[Engine]
) -> str:
    """Start it in prefill-decode mode with power of two choices, which sees only load."""
    front = Engine(f"http://127.0.0.1:{free_port()}")
    line = [command, "--vllm-pd-disaggregation", "--kv-connector", "nixl"]
    line += ["--policy", "power_of_two", "--host", "127.0.0.1", "--log-level", "warning"]
    line += ["--port", front.url.rpartition(":")[2], "--prometheus-port", str(free_port())]
    line += [word for engine in prefill for word in ("--prefill", engine.url)]
    line += [word for engine in decode for word in ("--decode", engine.url)]
    processes.start("vllm-router", line, {})
    _await_true(lambda: front.is_healthy, processes, "vllm-router")
    return front.url


def _await(engines: list[Engine], processes: Processes, say: Say) -> None:
    said = -1

    def ready(serving: int) -> None:
        nonlocal said
        if serving != said:
            say(f"vLLM engines: {serving} of {len(engines)} serve")
            said = serving

    vllm.await_health(engines, processes, ready)


def _await_true(condition: Callable[[], bool], processes: Processes, what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        processes.check()
        if time.monotonic() > deadline:
            raise DemoError(f"{what} did not start in {START_SECONDS:.0f} s")
        time.sleep(0.05)
