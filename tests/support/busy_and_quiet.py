"""A daemon that has placed one request of a quiet model, then hundreds of a busy one."""

from collections.abc import Iterator
from contextlib import contextmanager

from daemon import Daemon, running_daemon
from wire import Client

BUSY, QUIET = "busy", "org/quiet+7B & co"
ONLY, LAST = "the-only-one", "r299"


@contextmanager
def busy_and_quiet() -> Iterator[tuple[Daemon, Client]]:
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        for model in BUSY, QUIET:
            client.register(model)
        client.route(QUIET, ONLY)
        for number in range(300):
            client.route(BUSY, f"r{number}")
            client.release(BUSY, f"r{number}")
        yield daemon, client
