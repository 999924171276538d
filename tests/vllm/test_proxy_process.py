"""`eldr-proxy` as a process."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from benchmarks.demos.demo_vllm.processes import free_port


def test_serves_and_goes():
    port = free_port()
    nobody = "http://127.0.0.1:9"
    flags = ["--listen", f"127.0.0.1:{port}", "--router", "none"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from eldr_vllm.proxy import main; main()", *flags],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "ELDR_PROXY_PREFILL": nobody,
            "ELDR_PROXY_DECODE": nobody,
        },
    )
    try:
        health = wait_for(f"http://127.0.0.1:{port}/health")
        assert health == {
            "status": "ok",
            "workers": {"prefill": 1, "decode": 1},
            "router": "none",
        }
        body = json.dumps({"model": "m", "prompt": "x"}).encode()
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/completions", body)
        assert refusal.value.code == 502
        assert "error" in json.load(refusal.value)
    finally:
        process.terminate()
        assert process.wait(20) == 0


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
    assert done.stderr == f"eldr-proxy needs {missing}: pip install 'eldr-vllm[proxy]'\n"
