import json

import pytest
from daemon import running_daemon
from deployment import BAD, PATIENT, engine, worker
from typer.testing import CliRunner
from wire import Client, eventually

from eldr_service.cli.app import app


@pytest.fixture(scope="session")
def url():
    """An engine's that is well."""
    with engine() as url:
        yield url


@pytest.fixture
def deployment(tmp_path, url):
    """A daemon with two workers that are well, and a partition; its client."""
    with (
        running_daemon("--state", str(tmp_path), *PATIENT) as daemon,
        Client(daemon.grpc) as client,
    ):
        for worker_id in ("w0", "w1"):
            worker(client, worker_id, url)
        client.fit("m")
        yield daemon, client


@pytest.fixture
def examined():
    """Runs `eldr doctor --json`: the checks by name and subject, of which `code` says the worst.

    Without `code`, the worst may be anything.
    """

    def run(daemon, *options, code=None, http="", own=()):
        at = http or ("" if isinstance(daemon, str) else daemon.http)
        words = "doctor", "--json", *(("--http", at) if at else ()), *options
        server = daemon if isinstance(daemon, str) else daemon.grpc
        result = CliRunner().invoke(app, [*words, "--server", server, *own])
        told = json.loads(result.stdout)
        assert result.exit_code == bool(told["fault"])
        assert code in (None, result.exit_code), told
        found = {(each["check"], each["subject"]): each for each in told["checks"]}
        assert len(found) == len(told["checks"])
        assert all(each["fix"] for each in found.values() if each["outcome"] in BAD)
        assert "the check itself failed" not in str(told)
        return found

    return run


@pytest.fixture
def becomes(examined):
    """Waits until a check turns out so, of the daemon or of a model; what it found."""

    def run(outcome, check, daemon, of="", **more):
        seen = []

        def is_so():
            seen.append(examined(daemon, **more)[check, of])
            return seen[-1]["outcome"] == outcome

        try:
            eventually(is_so)
        except AssertionError:
            raise AssertionError(f"{seen[-1]}, not {outcome}") from None
        return seen[-1]

    return run
