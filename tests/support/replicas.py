"""Several daemons that clients take for one router, and what can befall each of them."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from daemon import Daemon, running_daemon
from wire import Client


class Replicas:
    """Daemons with the same flags; `daemons` are those that run or have run."""

    def __init__(self, stack: ExitStack, flags: tuple[str, ...]) -> None:
        self._stack = stack
        self._flags = flags
        self.daemons: list[Daemon] = []

    @property
    def target(self) -> str:
        """All addresses, as a user writes them."""
        return ",".join(daemon.grpc for daemon in self.daemons)

    def start(self, listen: str = "127.0.0.1:0") -> Daemon:
        daemon = self._stack.enter_context(running_daemon("--listen", listen, *self._flags))
        self.daemons.append(daemon)
        return daemon

    def restart(self, which: int) -> None:
        """Start a replica that has ended again, at its address."""
        self.daemons[which].process.wait()
        daemon = self.start(self.daemons[which].grpc)
        self.daemons[which] = self.daemons.pop()
        assert daemon.grpc == self.daemons[which].grpc

    def send(self, which: int, number: signal.Signals) -> None:
        os.kill(self.daemons[which].process.pid, number)

    @contextmanager
    def frozen(self, which: int) -> Iterator[None]:
        """A replica that keeps its connections and says nothing."""
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


@contextmanager
def running_replicas(*flags: str, count: int = 2) -> Iterator[Replicas]:
    with ExitStack() as stack:
        replicas = Replicas(stack, flags)
        for _ in range(count):
            replicas.start()
        yield replicas
