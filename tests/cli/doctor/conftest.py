import pytest
from daemon import running_daemon
from deployment import BAD, PATIENT, engine, worker
from wire import Client


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
def examined(eldr_at):
    """Runs `eldr doctor --json`: the checks by name and subject, of which `code` says the worst."""

    def run(daemon, *options, code, http="", own=()):
        eldr = eldr_at(daemon if isinstance(daemon, str) else daemon.grpc, own)
        at = http or ("" if isinstance(daemon, str) else daemon.http)
        told = eldr.json("doctor", *(("--http", at) if at else ()), *options, code=code)
        assert told["fault"] == 0 or code == 1
        found = {(each["check"], each["subject"]): each for each in told["checks"]}
        assert len(found) == len(told["checks"])
        assert all(each["fix"] for each in found.values() if each["outcome"] in BAD)
        assert "the check itself failed" not in str(told)
        return found

    return run
