"""Routers of other projects, from PyPI."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

from runtime import runtime

VLLM_ROUTER = "vllm-router==0.1.17", "vllm_router.launch_router"
SGLANG_ROUTER = "sglang-router==0.3.2", "sglang_router.launch_router"


@asynccontextmanager
async def running_router(which, session, log, *flags):
    """Run the real router; yields its URL."""
    package, module = which
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        port, metrics = (each.getsockname()[1] for each in (one, other))
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-port", str(metrics), "--policy", "round_robin", *flags]
    environment = {**os.environ, "PYTHONPATH": str(runtime(package))}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        try:
            async with session.get(url + "/readiness") as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        async with asyncio.timeout(60):
            while not await ready():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)
