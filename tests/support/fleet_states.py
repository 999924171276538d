"""The state of a daemon's fleet, for tests of discovery."""

from contextlib import contextmanager

from daemon import running_daemon
from eldr.v1 import fleet_pb2
from wire import LAYERS, Client, eventually

STATE = fleet_pb2.WorkerState.Name


@contextmanager
def discovering(*flags, env=None):
    """A daemon with JSON logs, and its client."""
    with (
        running_daemon("--log-format", "json", *flags, env=env) as daemon,
        Client(daemon.grpc) as client,
    ):
        yield daemon, client


def states(client, model: str = "") -> dict[str, str]:
    return {name: STATE(w.state)[13:] for name, w in client.workers(model).items()}


def become(client, expected: dict[str, str], seconds: float = 20) -> None:
    """Wait until the fleet is as expected."""
    seen: list[dict[str, str]] = []

    def is_so() -> bool:
        seen.append(states(client))
        return seen[-1] == expected

    try:
        eventually(is_so, seconds)
    except AssertionError:
        raise AssertionError(f"{seen[-1]}, not {expected}") from None


def said(daemon, event: str) -> list[dict]:
    """The log lines of an event."""
    return [line for line in daemon.logs if line["event"] == event]


def fleet_file(*workers: str, **fields: object) -> str:
    """A fleet file's text; `fields` are added to each worker as TOML."""
    more = "".join(f"{name} = {value}\n" for name, value in fields.items())
    return "".join(
        f'[[workers]]\nmodel = "m"\nworker_id = "{worker}"\nurl = "http://{worker}:8000"\n'
        "capacity = { sequences = 9 }\n"
        f"geometry = {{ num_layers = {LAYERS}, num_experts = 16, top_k = 2 }}\n{more}"
        for worker in workers
    )
