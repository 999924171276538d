"""`eldr doctor`: partitions that are missing, or not of the fleet or the traffic."""

import time
from contextlib import ExitStack

import pytest
from daemon import running_daemon
from deployment import PATIENT, serve, worker
from eldr.v1 import fleet_pb2
from wire import Client


@pytest.fixture
def unfitted(url):
    """A daemon with two workers, and flags of the caller's."""

    def begin(*flags):
        daemon = stack.enter_context(running_daemon(*PATIENT, *flags))
        client = stack.enter_context(Client(daemon.grpc))
        for worker_id in ("w0", "w1"):
            worker(client, worker_id, url)
        return daemon, client

    with ExitStack() as stack:
        yield begin


def test_no_partition_and_none_to_come(unfitted, examined):
    daemon, _ = unfitted("--refit", "off")
    found = examined(daemon, code=1)["partition", "m"]
    assert "none will be fitted automatically" in found["words"]
    assert "eldr partition refit auto --model m" in found["fix"]


def test_no_partition_yet(unfitted, examined):
    daemon, client = unfitted()
    found = examined(daemon, code=0)["partition", "m"]
    assert found["outcome"] == "warning"
    assert "no signature has come" in found["words"]
    serve(client, 3)
    found = examined(daemon, code=0)["partition", "m"]
    assert "3 signatures so far, about 32 per worker are needed" in found["words"]
    assert "--import --activate --model m" in found["fix"]


def test_no_partition_as_no_signature_comes(unfitted, examined):
    daemon, client = unfitted()
    serve(client, 3, signatures=False)
    found = examined(daemon, code=1)["partition", "m"]
    assert "no signature has come to fit on" in found["words"]


def test_a_slot_without_a_worker(deployment, becomes):
    daemon, client = deployment
    assert becomes("ok", "slots", daemon, "m")["words"] == "2 slots, 2 workers: none is vacant"
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="m", worker_id="w1"))
    found = becomes("warning", "slots", daemon, "m")
    assert found["words"] == "no worker has slot 1: its requests go to workers of other slots"
    assert "eldr fit --activate --model m --slots 1" in found["fix"]


def test_traffic_that_has_moved(deployment, becomes):
    """The partition was chosen by hand a moment ago, so no refit ends the drift."""
    daemon, client = deployment
    serve(client, 100, kinds=(2, 3))
    found = becomes("warning", "drift", daemon, "m")
    assert " times as far from it as at its fit" in found["words"]
    assert "; refits begin again in 30 min" in found["words"]
    assert found["fix"] == "eldr fit --activate --model m"


def test_a_partition_that_is_old(unfitted, examined, becomes, monkeypatch):
    daemon, client = unfitted("--refit", "manual")
    client.fit("m")
    becomes("ok", "drift", daemon, "m")
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 31 * 86_400)
    found = examined(daemon, code=1)["drift", "m"]  # the clock is a fault, too
    assert found["outcome"] == "warning"
    assert found["words"] == "it is 31 d old, and is not refitted automatically"
    assert "eldr partition refit auto --model m" in found["fix"]
