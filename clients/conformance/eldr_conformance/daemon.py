"""The real daemon, for cases that need its own answers."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
from eldr.v1 import fleet_pb2 as pb
from eldr.v1.fleet_pb2_grpc import FleetServiceStub

START_SECONDS = 60.0


class Daemon:
    """`eldr-server` with its state in its own folder, so that it can be restarted."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process: asyncio.subprocess.Process | None = None
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        """Start it and wait until it serves."""
        ports = Path(self._folder.name, "ports")
        ports.unlink(missing_ok=True)
        flags = ["--listen", self.address, "--http", "127.0.0.1:0", "--drain-seconds", "0"]
        flags += ["--state", self._folder.name + "/state", "--port-file", str(ports)]
        program = "from eldr_service.server import main; main()"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *flags, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(START_SECONDS):
            while not ports.exists():
                if self._process.returncode is not None:
                    raise RuntimeError("eldr-server does not start; try it by hand")
                await asyncio.sleep(0.02)
        self.address = json.loads(ports.read_text())["grpc"]

    async def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        """Stop it and delete its state."""
        await self.kill()
        self._folder.cleanup()

    async def register(self, workers: list[dict[str, Any]]) -> None:
        """Register decode workers of the model `m`."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            for worker in workers:
                fields = {"model": "m", "url": f"http://{worker['worker_id']}:8000", **worker}
                fields["capacity"] = pb.WorkerCapacity(sequences=fields.pop("capacity", 0))
                await FleetServiceStub(channel).RegisterWorker(pb.RegisterWorkerRequest(**fields))

    async def booked(self) -> int:
        """Number of sequences booked now."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            answer = await FleetServiceStub(channel).ListWorkers(pb.ListWorkersRequest())
        return sum(worker.booked_sequences for worker in answer.workers)
