"""Several daemons that clients treat as one router, and failures of each."""

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

from daemon import Daemon, running_daemon
from wire import Client


class Replicas:
    """Daemons with the same flags, each with its own state unless the flags set one."""

    def __init__(self, stack: ExitStack, flags: tuple[str, ...]) -> None:
        self._stack = stack
        self._flags = flags
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.daemons: list[Daemon] = []

    @property
    def target(self) -> str:
        """All addresses, as a user would write them."""
        return ",".join(daemon.grpc for daemon in self.daemons)

    def start(self, listen: str = "127.0.0.1:0") -> None:
        self.daemons.append(self._begin(len(self.daemons), listen))

    def _begin(self, which: int, listen: str) -> Daemon:
        own = () if "--state" in self._flags else ("--state", str(self._folder / f"{which}.db"))
        return self._stack.enter_context(running_daemon("--listen", listen, *own, *self._flags))

    def restart(self, which: int) -> None:
        """Restart a replica that has ended, at its address and with its state."""
        address = self.daemons[which].grpc
        self.daemons[which].process.wait()
        self.daemons[which] = self._begin(which, address)
        assert self.daemons[which].grpc == address

    def send(self, which: int, number: signal.Signals) -> None:
        os.kill(self.daemons[which].process.pid, number)

    @contextmanager
    def frozen(self, which: int) -> Iterator[None]:
        """Make a replica keep its connections but answer nothing."""
        self.send(which, signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(which, signal.SIGCONT)

    def register(self, model: str, *worker_ids: str) -> None:
        """Register workers with every replica."""
        for daemon in self.daemons:
            with Client(daemon.grpc) as client:
                for worker_id in worker_ids:
                    client.register(model, worker_id)

    def booked(self, which: int, model: str) -> int:
        with Client(self.daemons[which].grpc) as client:
            return client.booked(model)

    def placements(self, which: int) -> float:
        """Number of requests that a replica has placed since it started."""
        with urlopen(f"http://{self.daemons[which].http}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        return sum(float(n) for n in re.findall(r"^eldr_placements_total{.*} (\S+)", page, re.M))


@contextmanager
def running_replicas(*flags: str, count: int = 2) -> Iterator[Replicas]:
    with ExitStack() as stack:
        replicas = Replicas(stack, flags)
        for _ in range(count):
            replicas.start()
        yield replicas
