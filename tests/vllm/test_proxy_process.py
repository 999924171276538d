"""`eldr-proxy` as a process."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from benchmarks.demos.demo_vllm.processes import free_port


@contextmanager
def running_proxy(prefill: str, decode: str):
    """A proxy without a daemon; gives its process and its address."""
    port = free_port()
    flags = ["--listen", f"127.0.0.1:{port}", "--router", "none"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from eldr_vllm.proxy import main; main()", *flags],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "ELDR_PROXY_PREFILL": prefill,
            "ELDR_PROXY_DECODE": decode,
        },
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_serves_and_goes():
    nobody = "http://127.0.0.1:9"
    with running_proxy(nobody, nobody) as (_, url):
        assert wait_for(f"{url}/health") == {
            "status": "ok",
            "workers": {"prefill": 1, "decode": 1},
            "router": "none",
        }
        body = json.dumps({"model": "m", "prompt": "x"}).encode()
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{url}/v1/completions", body)
        assert refusal.value.code == 502
        assert "error" in json.load(refusal.value)


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/v1/completions", 405), ("/", 404)]
)
def test_no_expectation_fails(path, status):
    nobody = "http://127.0.0.1:9"
    with running_proxy(nobody, nobody) as (_, url):
        wait_for(f"{url}/health")
        port = int(url.rpartition(":")[2])
        answers = []
        for expectation in (b"\xff", b"weird", b"100-continue"):
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                connection.sendall(
                    f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: ".encode()
                    + expectation
                    + b"\r\n\r\n"
                )
                answers.append(b"".join(iter(lambda: connection.recv(4096), b"")))
    assert [answer.split()[1] for answer in answers] == [b"417", b"417", b"100"]
    assert rb"expected 100-continue, found '\\udcff'" in answers[0]
    assert f"HTTP/1.1 {status} ".encode() in answers[2]


class SlowEngine:
    """Reads no body of a decode before all of them have come; a prefill's at once."""

    def __init__(self, decodes: int) -> None:
        self.waiting, self.decodes = 0, decodes
        self.all_here = asyncio.Event()
        self.read: list[int] = []

    async def generate(self, request: web.Request) -> web.Response:
        if "decode" in request.path:
            self.waiting += 1
            if self.waiting == self.decodes:
                self.all_here.set()
            await self.all_here.wait()
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        self.read.append(size)
        choice = {"index": 0, "text": "a", "finish_reason": "length"}
        return web.json_response({"object": "text_completion", "choices": [choice]})


async def test_many_sequences_of_a_long_prompt_take_the_memory_of_one():
    engine, sequences, prompt = SlowEngine(64), 64, "prompt " * 600_000
    app = web.Application(client_max_size=1 << 30)
    app.add_routes([web.post("/{role}/v1/completions", engine.generate)])
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with running_proxy(f"{url}/prefill", f"{url}/decode") as (process, proxy):
        await asyncio.to_thread(wait_for, f"{proxy}/health")
        before = peak_mib(process.pid)
        async with ClientSession() as session:
            body = {"model": "m", "prompt": prompt, "n": sequences}
            async with session.post(f"{proxy}/v1/completions", json=body) as answer:
                assert answer.status == 200
                assert len((await answer.json())["choices"]) == sequences
        grown = peak_mib(process.pid) - before
    await runner.cleanup()
    assert len(engine.read) == 2 * sequences
    assert min(engine.read) > len(prompt)
    assert grown < 16 * len(prompt) / 2**20, "64 copies would be four times that"


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def wait_for(url: str) -> dict:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url) as page:
                return json.load(page)
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("missing", ["aiohttp", "prometheus_client"])
def test_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from eldr_vllm.proxy import main; main()"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 1
    hint = "pip install aiohttp prometheus-client"
    assert done.stderr == f"eldr-proxy needs {missing}: {hint}\n"
