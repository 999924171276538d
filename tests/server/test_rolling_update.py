"""A fleet is replaced, revision by revision, under load, by the commands of docs/fleets.md."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from daemon import running_daemon
from elastic import Load, Worker
from eldr.v1 import fleet_pb2 as pb
from wire import Client

PAGE = Path(__file__).parents[2] / "docs" / "fleets.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
QUICK = ("--report-interval", "0.5", "--report-limit", "2", "--suspect-after", "3")


async def shell(daemon, commands: str, folder: Path) -> str:
    """Run commands of the page; they must all succeed."""
    eldr = folder / "eldr"
    program = "from eldr_service.cli.app import main; main()"
    eldr.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    eldr.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        "sh", "-euc", commands,
        env={
            "PATH": f"{folder}:/usr/bin:/bin",
            "HOME": str(folder),
            "ELDR_SERVER": daemon.grpc,
            "MODEL": "m",
            "LONGEST_PREFILL": "1",
        },
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


class Fleet:
    """Workers of revisions; a scheduler that prefills on those that are not DRAINING."""

    def __init__(self, address: str) -> None:
        self.client = Client(address, asynchronous=True)
        self.workers: dict[str, Worker] = {}
        self.prefill: set[str] = set()

    async def add(self, revision: str, role: str, number: int) -> None:
        worker_id = f"{role}-{revision}{number}"
        self.workers[worker_id] = await Worker(
            self.client, "m", worker_id, group=revision, labels={"revision": revision},
            role=f"WORKER_ROLE_{role.upper()}", ttl=60.0,
            capacity=pb.WorkerCapacity(sequences=64),
        ).start()  # fmt: skip

    async def watch(self) -> None:
        async for change in self.client.fleet.WatchWorkers(pb.WatchWorkersRequest(model="m")):
            worker = change.worker
            if worker.role == pb.WORKER_ROLE_PREFILL:
                ready = worker.state == pb.WORKER_STATE_READY
                (self.prefill.add if ready else self.prefill.discard)(worker.worker_id)


async def roll(daemon, folder: Path):
    fleet = Fleet(daemon.grpc)
    for number in range(3):
        await fleet.add("a", "decode", number)
    for number in range(2):
        await fleet.add("a", "prefill", number)
    watching = asyncio.create_task(fleet.watch())
    while len(fleet.prefill) < 2:
        await asyncio.sleep(0.05)
    load = Load(fleet.client, "m", fleet.workers, 60.0, 0.3, prefill=fleet.prefill)
    loading = asyncio.create_task(load.run())
    await asyncio.sleep(1.0)
    for number in range(3):
        await fleet.add("b", "decode", number)
    for number in range(2):
        await fleet.add("b", "prefill", number)
    await asyncio.sleep(1.0)
    (update,) = (block for block in BLOCKS if "LONGEST_PREFILL" in block)
    said = await shell(daemon, update, folder)
    assert fleet.prefill == {"prefill-b0", "prefill-b1"}
    await asyncio.gather(*(w.drained.wait() for i, w in fleet.workers.items() if "-a" in i))
    for worker_id in [i for i in fleet.workers if "-a" in i]:
        await fleet.workers.pop(worker_id).leave()
    await asyncio.sleep(1.0)
    load.stop.set()
    await loading
    watching.cancel()
    left = await fleet.client.fleet.ListWorkers(pb.ListWorkersRequest(model="m"))
    for worker in fleet.workers.values():
        worker.vanish()
    await fleet.client.channel.close()
    return load.seen, said, {worker.worker_id: worker for worker in left.workers}


def test_a_rolling_update_refuses_no_request_and_mixes_no_revisions(tmp_path):
    with running_daemon(*QUICK) as daemon:
        seen, said, left = asyncio.run(roll(daemon, tmp_path))
    assert seen.refused == []
    assert seen.wrong_group == []
    assert seen.moved == 0  # each request was decoded where it was placed first
    assert seen.placed > 100
    assert [line for line in said.splitlines() if line.startswith("drained")] == [
        f"drained decode-a{number} of m" for number in range(3)
    ]
    assert sorted(left) == ["decode-b0", "decode-b1", "decode-b2", "prefill-b0", "prefill-b1"]
    assert sum(worker.booked_sequences for worker in left.values()) == 0


def test_the_page_adds_a_worker_and_drains_it(tmp_path):
    with running_daemon(*QUICK) as daemon, Client(daemon.grpc) as client:
        joining, draining, _ = BLOCKS
        assert "decode-9" in asyncio.run(shell(daemon, joining, tmp_path))
        assert client.workers()["decode-9"].group == "a"
        assert asyncio.run(shell(daemon, draining, tmp_path)) == "drained decode-9 of m\n"
        assert not client.workers()
