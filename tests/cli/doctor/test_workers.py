"""`eldr doctor`: workers that are away, or not as they should be."""

from deployment import engine, worker
from eldr.v1 import fleet_pb2
from google.protobuf.duration_pb2 import Duration
from wire import eventually


def test_an_engine_that_is_dead(deployment, examined):
    daemon, client = deployment
    with engine() as dead:
        pass
    worker(client, "w1", dead)
    found = examined(daemon, code=1)["urls", "m"]
    assert f"w1 ({dead}/health: nothing listens there)" in found["words"]
    assert "w0" not in found["words"]
    assert "eldr workers remove w1 --model m" in found["fix"]


def test_a_worker_that_fell_silent(deployment, examined):
    daemon, client = deployment
    worker(client, "w1", "http://127.0.0.1:1", time_to_live=Duration(nanos=300_000_000))
    eventually(lambda: "w1" not in client.workers("m"))
    found = examined(daemon, code=0)
    assert found["expired", "m"]["outcome"] == "warning"
    assert "w1 fell silent" in found["expired", "m"]["words"]
    assert found["slots", "m"]["outcome"] == "warning"
    worker(client, "w1", client.workers("m")["w0"].url)
    assert examined(daemon, code=0)["expired", "m"]["outcome"] == "ok"
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="m", worker_id="w1"))
    assert examined(daemon, code=0)["expired", "m"]["outcome"] == "ok"


def test_a_worker_that_flaps(deployment, examined, url):
    daemon, client = deployment
    for _ in range(3):
        worker(client, "w1", url)
    found = examined(daemon, code=0)["standing", "m"]
    assert found["outcome"] == "warning"
    assert "w1 left and came back again and again" in found["words"]


def test_all_drain(deployment, examined):
    daemon, client = deployment
    for worker_id in ("w0", "w1"):
        client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model="m", worker_id=worker_id))
    found = examined(daemon, code=1)["accepting", "m"]
    assert found["outcome"] == "fault"
    assert "2 DRAINING" in found["words"]
