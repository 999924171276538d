"""Real SGLang servers on a CPU, each in its own process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-sglang/bin/python"
START_SECONDS = 240
LAYERS, EXPERTS, TOP_K = 4, 32, 4

needs_sglang = pytest.mark.skipif(
    not PYTHON.exists(), reason="needs SGLang, 0.5 GB: `make test-sglang` installs it and runs this"
)

_ENTRY = "[sglang.srt.plugins]\non_cpu = sglang_on_cpu:register\n"


@dataclass(frozen=True)
class Engine:
    url: str
    log: Path
    bootstrap_port: int

    def post(self, path, body=None, timeout=120):
        return post(self.url + path, body, timeout)


def post(url, body=None, timeout=120):
    """The JSON of the answer, or its text."""
    data = b"" if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith("{") else text


def build_model(folder):
    """A Qwen3-MoE whose layers are all MoE, as SGLang assumes."""
    code = f"import tiny_model; tiny_model.build(r'{folder}', dense=0)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests/vllm")}
    subprocess.run([PYTHON, "-c", code], env=environment, check=True, capture_output=True)
    return folder


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def running(model, folder, *engines, env=None):
    """Servers started together; `engines` are the arguments of each."""
    plugins = _plugin(folder)
    environment = os.environ | {
        "PYTHONPATH": str(plugins),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR": str(folder),
        "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": "60",
        **(env or {}),
    }
    processes, started = [], []
    try:
        for number, arguments in enumerate(engines):
            port, bootstrap = free_port(), free_port()
            engine = Engine(f"http://127.0.0.1:{port}", folder / f"{number}.log", bootstrap)
            command = [
                str(PYTHON), "-m", "sglang.launch_server", "--model-path", str(model),
                "--port", str(port), "--device", "cpu", "--dtype", "float32",
                "--attention-backend", "torch_native",
                "--enable-return-routed-experts", "--mem-fraction-static", "0.9",
                "--max-total-tokens", "8192", "--skip-server-warmup",
                "--disaggregation-bootstrap-port", str(bootstrap), *arguments,
            ]  # fmt: skip
            with engine.log.open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
            started.append(engine)
        for process, engine in zip(processes, started, strict=True):
            _wait(process, engine)
        yield started
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(process, engine):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{engine.url}/health", timeout=20):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise RuntimeError(f"SGLang does not serve: {engine.log.read_text()[-3000:]}")


def _plugin(folder):
    """A folder in which SGLang finds the plugin by its entry point."""
    plugins = folder / "plugins"
    metadata = plugins / "sglang_on_cpu-0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "sglang_on_cpu.py", plugins)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang-on-cpu\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(_ENTRY)
    return plugins
