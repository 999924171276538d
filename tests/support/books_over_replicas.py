"""Executes the operations of `books` on three replicas, each on one drawn for it."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

from books import Chances
from books_over_socket import OverSocket
from daemon import running_daemon
from eldr.v1 import fleet_pb2
from redis_server import RedisServer
from wire import Client, eventually

MARK = "mark"  # a model whose one worker's load shows how far a replica has read
ROOM = 1 << 20
SECONDS = 10.0  # for changes to reach all, on a busy machine


class OverReplicas(OverSocket):
    """Three daemons on one Redis. A restart is kill -9 of one of them."""

    chances = Chances(
        report_limit=3_600.0,
        leases=(None, 900.0, 86_400.0) * 200 + (3.0,),
        steps=(0.0, 0.01),
        restart=0.004,
        margin=4.0,  # a replica's renewals may be ahead of what it has told the others
    )

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._marks = 0
        self.redis = RedisServer(folder)
        super().__init__(folder)

    def _begin(self) -> None:
        self._flags = ("--state", self.redis.url, *self._flags[2:])
        self._stacks = [ExitStack() for _ in range(3)]
        self._daemons, self._clients = [None] * 3, [None] * 3
        for number in range(3):
            self._start(number)
        self._life = self._client.register(
            MARK, geometry=None, capacity=fleet_pb2.WorkerCapacity(sequences=ROOM)
        )

    def _start(self, number: int) -> None:
        daemon = self._stacks[number].enter_context(running_daemon(*self._flags))
        self._daemons[number] = daemon
        self._clients[number] = self._stacks[number].enter_context(Client(daemon.grpc))

    @property
    def _client(self) -> Client:
        return self._chance.choice(self._clients)

    def close(self) -> None:
        for stack in self._stacks:
            stack.close()
        self.redis.kill()

    def restart(self) -> None:
        number = self._chance.randrange(3)
        self._daemons[number].process.kill()
        self._daemons[number].process.wait()
        self._stacks[number].close()
        self._start(number)

    def lose_redis(self) -> None:
        """Kill Redis, and start it again empty."""
        self.redis.kill()
        self._wait_until_all_say("eldr_bookings_durable 0.0")
        self.redis.start()
        self._wait_until_all_say("eldr_bookings_durable 1.0")

    def _wait_until_all_say(self, line: str) -> None:
        for daemon in self._daemons:
            eventually(lambda daemon=daemon: line in page(daemon), 30)

    def in_step(self) -> None:
        """Wait until each replica has read all changes so far: they come in order."""
        for sender in (0, 1):
            self._marks += 1
            report = fleet_pb2.ReportLoadRequest(
                model=MARK, worker_id="w0", incarnation=self._life,
                report_number=self._marks, foreign_sequences=self._marks,
            )  # fmt: skip
            assert self._clients[sender].fleet.ReportLoad(report).accepted
            deadline = time.monotonic() + SECONDS
            for reader in {0, 1, 2} - {sender}:
                while not self._has_mark(reader):
                    assert time.monotonic() < deadline, "a replica misses others' changes"
                    time.sleep(0.001)

    def _has_mark(self, reader: int) -> bool:
        return round(self._clients[reader].workers(MARK)["w0"].load * ROOM) >= self._marks

    def set_policy(self, name) -> None:
        super().set_policy(name)
        self.in_step()  # until then each decides by the previous one

    def activate(self, version) -> None:
        super().activate(version)
        self.in_step()

    def views(self) -> Iterator["View"]:
        """Each replica, to check on its own."""
        for daemon, client in zip(self._daemons, self._clients, strict=True):
            yield View(daemon, client)


def page(daemon) -> str:
    with urlopen(f"http://{daemon.http}/metrics", timeout=SECONDS) as answer:
        return answer.read().decode()


class View(OverSocket):
    """One replica."""

    def __init__(self, daemon, client: Client) -> None:
        self._daemon, self._client = daemon, client
