"""`eldr doctor`: partitions that are missing, or not of the fleet or the traffic."""

from daemon import running_daemon
from deployment import worker
from wire import Client


def test_no_partition_and_none_to_come(examined, url):
    with running_daemon("--refit", "off") as daemon, Client(daemon.grpc) as client:
        for worker_id in ("w0", "w1"):
            worker(client, worker_id, url)
        found = examined(daemon, code=1)["partition", "m"]
    assert "none is fitted by itself" in found["words"]
    assert "eldr partition refit auto --model m" in found["fix"]
