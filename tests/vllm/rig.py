"""The daemon and vLLM's own API server, as processes of a test."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from eldr.v1.activation_pb2 import ActivationCounts

DAEMON_PYTHON = os.environ.get("ELDR_DAEMON_PYTHON", sys.executable)
"""The interpreter that has the daemon's dependencies; vLLM's environment need not."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A child process in a group of its own, with its output in a file."""

    def __init__(self, command, log, **env):
        self.log = Path(log)
        self._popen = subprocess.Popen(
            command,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **env},
        )

    @property
    def is_alive(self):
        return self._popen.poll() is None

    def kill(self, how=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, how)
        self._popen.wait(60)

    def terminate(self):
        """As an operator would; its children are left to it for a while."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)


class Daemon(Process):
    def __init__(self, directory, port=0):
        ports = directory / f"ports-{time.monotonic_ns()}.json"
        code = "from eldr_service.server import main; main()"
        options = ["--listen", f"127.0.0.1:{port}", "--http", "127.0.0.1:0"]
        options += ["--state", ":memory:", "--port-file", str(ports)]
        super().__init__([DAEMON_PYTHON, "-c", code, *options], directory / "daemon.log")
        wait(ports.exists, 60, lambda: self.log.read_text())
        self.target = json.loads(ports.read_text())["grpc"]


class Engine(Process):
    """`python -m vllm.entrypoints.openai.api_server` on a free port."""

    def __init__(self, name, model, directory, kv_role, eldr, inner=None, **options):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        inner = inner or {
            "kv_connector": "NixlConnector",
            "kv_connector_module_path": "tame_nixl",
            "kv_connector_extra_config": {"kv_lease_duration": 180},
        }
        transfer = {
            "kv_connector": "EldrConnector",
            "kv_connector_module_path": "eldr_vllm.connector",
            "kv_role": kv_role,
            "kv_buffer_device": "cpu",
            "kv_connector_extra_config": {"eldr": {"url": self.url, **eldr}, "inner": inner},
        }
        defaults = {
            "model": str(model),
            "served-model-name": "tiny",
            "host": "127.0.0.1",
            "port": self.port,
            "dtype": "float32",
            "block-size": 32,
            "max-model-len": 1024,
            "max-num-seqs": 16,
            "max-num-batched-tokens": 256,
            "kv-transfer-config": json.dumps(transfer),
        }
        command = ["nice", "-n", "5", sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--enforce-eager"]
        for option, value in {**defaults, **options}.items():
            command += [f"--{option}", str(value)]
        super().__init__(
            command,
            directory / f"{name}.log",
            VLLM_NIXL_SIDE_CHANNEL_PORT=str(free_port()),
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            OMP_NUM_THREADS="1",
        )

    def wait(self):
        wait(self._is_ready, 240, lambda: self.log.read_text()[-4000:])
        return self

    def _is_ready(self):
        if not self.is_alive:
            raise AssertionError(self.log.read_text()[-4000:])
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url + "/health", timeout=2):
            return True
        return False

    def complete(self, prompt, max_tokens, kv=None, **more):
        body = {
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "kv_transfer_params": kv,
            **more,
        }
        request = urllib.request.Request(
            self.url + "/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from error

    def prefill(self, prompt, eldr=None):
        """The parameters for the decode engine, and what the shim says."""
        kv = {"do_remote_decode": True, "do_remote_prefill": False, "eldr": eldr or {}}
        params = self.complete(prompt, 1, kv)["kv_transfer_params"]
        return params, params.pop("eldr", None)


def decode_counts(text):
    """Counts [layers, experts] and the message, out of the answer's base64."""
    return read_counts(ActivationCounts.FromString(base64.b64decode(text)))


def read_counts(message):
    """Counts [layers, experts] and the message."""
    counts = np.zeros(message.num_layers * message.num_experts, np.int64)
    encoding = message.WhichOneof("encoding")
    if encoding == "sparse":
        counts[list(message.sparse.index)] = message.sparse.count
    elif encoding is not None:
        width = "<u2" if encoding == "dense_u16" else "<u4"
        counts[:] = np.frombuffer(getattr(message, encoding), width)
    return counts.reshape(message.num_layers, message.num_experts), message


def wait(condition, seconds, describe=lambda: ""):
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {describe()}")
