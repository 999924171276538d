"""`eldr doctor`: bookings that would not outlive the daemon."""

import resource

import pytest
from children import limits_files
from daemon import running_daemon
from redis_server import needs_redis, running_redis
from wire import Client


def test_bookings_in_memory_alone(examined):
    with running_daemon() as daemon:
        found = examined(daemon, code=0)["state", ""]
    assert found["outcome"] == "warning"
    assert found["words"].endswith("--state is :memory:")
    assert found["fix"] == "eldr-server --state DIR"


@limits_files
@pytest.mark.parametrize("watch", ["0", "0.2"])
def test_a_full_disk(deployment, examined, becomes, watch):
    daemon, client = deployment
    before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, -1))
    client.route("m", "r", pinned_worker="w0")
    found = examined(daemon, "--watch", watch, code=1)["state", ""]
    assert "bookings are not written" in found["words"]
    assert "is its disk full or failing?" in found["words"]
    assert "df -h" in found["fix"]
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)
    becomes("ok", "state", daemon)


@needs_redis
def test_a_shared_state_that_is_away(tmp_path, becomes):
    with (
        running_redis(tmp_path / "redis") as redis,
        running_daemon("--state", redis.url) as daemon,
        Client(daemon.grpc) as client,
    ):
        client.register("m")
        redis.kill()
        found = becomes("fault", "state", daemon)
    assert "the shared state cannot be reached" in found["words"]
    assert "redis-cli ping" in found["fix"]
