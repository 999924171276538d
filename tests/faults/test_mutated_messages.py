"""Mutated messages on every method of the real daemon: each has an answer, and leaves nothing.

`ELDR_FAULTS_OPERATIONS` says how many, as in test_books.py.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, partition_pb2
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from mutations import changed, damaged, seeds_of
from wire import METHODS, Client, path_of, read_status

MESSAGES = int(os.environ.get("ELDR_FAULTS_OPERATIONS", "4000"))
SEED = int(os.environ.get("ELDR_FAULTS_SEED", "1"))
AT_ONCE = 24
PATIENCE = 60.0  # seconds for an answer: longer is a hang, however busy the machine is
SILENCE = 0.2
FIT_PATIENCE = 600.0  # a fit's process is the nicest of all, and may wait for the processor
SLOW = {"FitPartition": 0.02, "ImportPartition": 0.3, "ListPartitions": 0.3, "SetPolicy": 0.3}
NEVER = {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "CANCELLED", "DATA_LOSS"}
LIMITS = (
    *("--max-models", "8", "--max-workers", "32", "--explanations", "500"),
    *("--signature-memory-bytes", "4MiB", "--refit-memory-bytes", "4MiB", "--refit", "off"),
)
WARM = 0.3  # share of the messages, after which memory is to stay
GROWTH = 0.10  # until each kind of message has been there often


class Sender:
    def __init__(self, client: Client, partition: bytes) -> None:
        self.client, self.chance = client, random.Random(SEED)
        self.seeds = {path_of(m): seeds_of(m, partition) for m in METHODS}
        self.weights = [SLOW.get(method.name, 1.0) for method in METHODS]
        self.all = [s.SerializeToString() for seeds in self.seeds.values() for s in seeds]
        self.said: Counter[tuple[str, str]] = Counter()

    def message(self, method) -> bytes:
        seed = self.chance.choice(self.seeds[path_of(method)])
        if self.chance.random() < 0.5:
            return changed(seed, self.chance)
        data = damaged(seed.SerializeToString(), self.chance, self.chance.choice(self.all))
        return b"" if _would_wait(method, data) else data

    async def send(self, messages: int) -> None:
        left = iter(range(messages))

        async def one_after_another():
            for _ in left:
                method = self.chance.choices(METHODS, self.weights)[0]
                data = self.message(method)
                code = await self.answer(method, data)
                self.said[method.name, code] += 1
                assert code not in NEVER, f"{path_of(method)} answered {data.hex()} by {code}"

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    async def answer(self, method, data: bytes) -> str:
        """Code of the call, or of the status in a stream's first answer."""
        silent = method.name == "WatchMoves"  # for as long as nothing is to move
        try:
            fits = method.name == "FitPartition"
            patience = FIT_PATIENCE if fits else SILENCE if silent else PATIENCE
            call = self.client.call(method, data, timeout=patience)
            if not method.server_streaming:
                await call
                return "OK"
            first = await call.read()
            call.cancel()
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            return "OK" if silent and code == "DEADLINE_EXCEEDED" else code
        if method.client_streaming and first is not grpc.aio.EOF and first.HasField("status"):
            return read_status(first.status).code
        return "OK"


def _would_wait(method, data: bytes) -> bool:
    try:
        message = GetMessageClass(method.input_type).FromString(data)
    except DecodeError:
        return False
    route = getattr(message, "route", message)
    return hasattr(route, "wait_for_signature") and route.HasField("wait_for_signature")


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(180 + MESSAGES // 100)
def test_mutated_messages(tmp_path):
    with (
        running_daemon(*LIMITS, "--log-format", "json") as daemon,
        Client(daemon.grpc) as client,
    ):
        for worker in ("w0", "w1"):
            client.register("m", worker)
        client.fit("m")
        export = partition_pb2.ExportPartitionRequest(model="m", version=1)
        partition = client.partition.ExportPartition(export).data

        async def all_of_them():
            calling = Client(daemon.grpc, asynchronous=True)
            async with calling.channel:
                sender = Sender(calling, partition)
                await sender.send(int(WARM * MESSAGES))
                warm = resident(daemon.process.pid)
                await sender.send(MESSAGES - int(WARM * MESSAGES))
                return sender.said, warm

        began = time.monotonic()
        said, warm = asyncio.run(all_of_them())
        after = resident(daemon.process.pid)
        codes = Counter()
        for (_, code), times in said.items():
            codes[code] += times
        print(f"\n{MESSAGES} messages in {time.monotonic() - began:.0f} s: {dict(codes)}")
        print(f"memory {warm / 2**20:.0f} MiB after {WARM:.0%}, then {after / 2**20:.0f} MiB")
        assert {name for name, _ in said} == {method.name for method in METHODS}
        assert after < warm * (1 + GROWTH)
        assert "Traceback" not in daemon.said
        ours = [line for line in daemon.said.splitlines() if line[:1] == "{"]
        assert [line for line in map(json.loads, ours) if line["level"] == "error"] == []
        for worker in client.workers("m"):
            client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="m", worker_id=worker))
        client.register("m", "fresh")
        assert client.route("m", "last").worker_id == "fresh"
        assert client.release("m", "last") == "RELEASED"
        assert client.booked("m") == 0
