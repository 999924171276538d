"""vLLM's own API servers, one prefill and some decode engines, and calls to them."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.demos.demo_vllm.processes import DemoError, Processes, free_port

CHECKOUT = Path(__file__).parents[3]
PYTHON = os.environ.get("ELDR_VLLM_PYTHON", str(CHECKOUT / ".venv-vllm/bin/python"))
"""The interpreter that has vLLM."""

START_SECONDS = 400.0
ASK_SECONDS = 120.0
MAX_SEQUENCES = 32
KV_CACHE_BYTES = 256 * 2**20
PAUSE_SECONDS = {"kv_producer": 0.010, "kv_consumer": 0.002}
"""Between two polls of vLLM's processes for each other; a decode step takes tens of ms."""
STREAM_INTERVAL = 4
"""Tokens per event, after the first: one event per token would cost as much as the token."""


class Engine:
    """An OpenAI API server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @property
    def is_healthy(self) -> bool:
        """Whether it serves."""
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def model(self) -> str:
        """The name of the model that it serves."""
        with urllib.request.urlopen(self.url + "/v1/models", timeout=ASK_SECONDS) as answer:
            return str(json.load(answer)["data"][0]["id"])

    def complete(self, model: str, prompt: str, tokens: int, kv: dict[str, Any]) -> dict[str, Any]:
        """A completion's answer.

        Raises
        ------
        OSError
            The engine refused, failed or did not answer.
        """
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "kv_transfer_params": kv,
        }
        request = urllib.request.Request(
            self.url + "/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:
            return dict(json.load(answer))


def start(
    processes: Processes, name: str, role: str, model: Path, router: str, record: Path | None
) -> Engine:
    """Start an engine, role kv_producer or kv_consumer; it is not ready yet.

    `record` is the folder that it records to; None: it does not record.
    """
    engine = Engine(f"http://127.0.0.1:{free_port()}")
    transfer = {
        "kv_connector": "EldrConnector",
        "kv_connector_module_path": "eldr_vllm.connector",
        "kv_role": role,
        "kv_buffer_device": "cpu",
        "kv_connector_extra_config": {
            "eldr": {
                "router": router,
                "url": engine.url,
                "group": "demo",
                "time_to_live": 60.0,
                "record": str(record or ""),
            },
            "inner": {
                "kv_connector": "NixlConnector",
                "kv_connector_module_path": "benchmarks.demos.demo_vllm.tame",
                "kv_connector_extra_config": {
                    "kv_lease_duration": 240,
                    # The prefill engine has the same model with narrower experts.
                    "enforce_handshake_compat": False,
                },
            },
        },
    }
    options = {
        "model": model,
        "served-model-name": "tiny-moe",
        "host": "127.0.0.1",
        "port": engine.url.rsplit(":", 1)[1],
        "dtype": "float32",
        "block-size": 32,
        "max-model-len": 1024,
        "max-num-seqs": MAX_SEQUENCES,
        "max-num-batched-tokens": 2048,
        "kv-cache-memory-bytes": KV_CACHE_BYTES,
        "stream-interval": STREAM_INTERVAL,
        "kv-transfer-config": json.dumps(transfer),
    }
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server"]
    # Every policy gets the same prompts: none may find them cached by the previous one.
    command += ["--enforce-eager", "--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    command += [f"--{option}={value}" for option, value in options.items()]
    paths = (
        CHECKOUT,
        CHECKOUT / "tests/vllm",
        CHECKOUT / "clients/vllm",
        CHECKOUT / "clients/python",
    )
    env = {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
        "ELDR_DEMO_PAUSE_SECONDS": str(PAUSE_SECONDS[role]),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port()),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    processes.start(name, command, env, nice=2)
    return engine


def await_health(engines: list[Engine], processes: Processes, ready: Callable[[int], None]) -> None:
    """Wait until all serve; `ready` is called with how many do."""
    deadline = time.monotonic() + START_SECONDS
    while (serving := sum(engine.is_healthy for engine in engines)) < len(engines):
        ready(serving)
        processes.check()
        if time.monotonic() > deadline:
            late = ", ".join(engine.url for engine in engines if not engine.is_healthy)
            raise DemoError(f"not ready in {START_SECONDS:.0f} s: {late}")
        time.sleep(0.5)
    ready(serving)


def warm_up(prefill: Engine, decode: Engine, model: str, prompt: str) -> None:
    """Connect this pair: the first handshake has 5 s, too short on a machine still warming up."""
    failure: OSError | None = None
    for _ in range(6):
        with suppress(TimeoutError):
            try:
                wanted = {"do_remote_decode": True, "do_remote_prefill": False}
                kv = prefill.complete(model, prompt, 1, wanted)["kv_transfer_params"]
                kv.pop("eldr", None)
                decode.complete(model, prompt, 8, kv)
                return
            except OSError as error:
                failure = error
        time.sleep(0.5)
    raise DemoError(f"{prefill.url} cannot transfer its KV to {decode.url}: {failure}")


def counts(prefill: Engine, model: str, prompt: str) -> str:
    """The experts that a prompt uses, as in the prefill engine's answer."""
    answer = prefill.complete(model, prompt, 1, {})
    said = (answer.get("kv_transfer_params") or {}).get("eldr") or {}
    if "counts" not in said:
        raise DemoError(f"{prefill.url} does not count experts: is its connector EldrConnector?")
    return str(said["counts"])
