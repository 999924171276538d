"""Real vLLM engines in processes of their own: random weights, float32, NIXL over loopback."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from eldr.v1.fleet_pb2 import RegisterWorkerRequest, WorkerRole
from eldr.v1.fleet_pb2_grpc import FleetServiceStub

from benchmarks.demos.demo_vllm.processes import free_port

HERE = Path(__file__).parent
MODEL = "tiny-moe"
START_SECONDS = 400
SWITCHES = ("--enforce-eager", "--enable-auto-tool-choice")
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


@dataclass(frozen=True)
class RealEngine:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self.url + "/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(name + "{"))

    def kill(self) -> None:
        """At once, its engine core with it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def is_idle(self) -> bool:
        """Nothing runs, nothing waits, and no block is held for anybody."""
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        return not any(self.metric(f"vllm:{name}") for name in names)


@contextmanager
def running_engines(folder: Path, *roles: str) -> Iterator[list[RealEngine]]:
    """Engines with these roles (kv_producer, kv_consumer), once they all serve."""
    model, template = folder / MODEL, folder / "chat.jinja"
    build = "import sys, pathlib, tiny_model; tiny_model.build(pathlib.Path(sys.argv[1]))"
    given = filter(None, [os.environ.get("PYTHONPATH")])
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), *given])
    environ = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", build, str(model)], env=environ, check=True)
    template.write_text(TEMPLATE)
    engines = [_start(role, folder, environ, number) for number, role in enumerate(roles)]
    try:
        deadline = time.monotonic() + START_SECONDS
        for engine in engines:
            while not _is_healthy(engine):
                if engine.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"vLLM does not serve: {engine.log.read_text()[-4000:]}")
                time.sleep(0.5)
        yield engines
    finally:
        for engine in engines:
            engine.process.terminate()
        for engine in engines:
            with suppress(subprocess.TimeoutExpired):
                engine.process.wait(30)
            engine.kill()


def _start(role: str, folder: Path, environ: dict[str, str], number: int) -> RealEngine:
    port, side_channel = free_port(), free_port()
    transfer = {
        "kv_connector": "NixlConnector",
        "kv_connector_module_path": "benchmarks.demos.demo_vllm.tame",  # more processes than cores
        "kv_role": role,
        "kv_buffer_device": "cpu",
        "kv_connector_extra_config": {"kv_lease_duration": 240},
    }
    options = {
        "--model": folder / MODEL,
        "--served-model-name": MODEL,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": "float32",
        "--block-size": 32,
        "--max-model-len": 2048,
        "--max-num-seqs": 8,
        "--max-num-batched-tokens": 256,
        "--chat-template": folder / "chat.jinja",
        "--tool-call-parser": "hermes",
        "--kv-transfer-config": json.dumps(transfer),
    }
    words = [str(word) for option in options.items() for word in option]
    log = folder / f"engine-{number}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words, *SWITCHES],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **environ,
                "OMP_NUM_THREADS": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel),
                "VLLM_NO_USAGE_STATS": "1",
            },
            preexec_fn=lambda: os.nice(5),
            start_new_session=True,
        )
    return RealEngine(f"http://127.0.0.1:{port}", process, log)


def _is_healthy(engine: RealEngine) -> bool:
    try:
        with urllib.request.urlopen(engine.url + "/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def register(daemon: str, engines: Sequence[RealEngine]) -> None:
    """Tell a daemon of these engines: the first prefills, the others decode."""
    with grpc.insecure_channel(daemon) as channel:
        for number, engine in enumerate(engines):
            FleetServiceStub(channel).RegisterWorker(
                RegisterWorkerRequest(
                    worker_id=f"worker-{number}",
                    model=MODEL,
                    url=engine.url,
                    role=WorkerRole.Value(f"WORKER_ROLE_{'DECODE' if number else 'PREFILL'}"),
                )
            )
