"""`eldr doctor`: workers that are away, or not as they should be."""

from daemon import running_daemon
from deployment import PATIENT, engine, worker
from eldr.v1 import fleet_pb2
from google.protobuf.duration_pb2 import Duration
from wire import Client, eventually


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
    assert "w1 left and came back repeatedly" in found["words"]


def test_all_drain(deployment, examined):
    daemon, client = deployment
    for worker_id in ("w0", "w1"):
        client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model="m", worker_id=worker_id))
    found = examined(daemon, code=1)["accepting", "m"]
    assert found["outcome"] == "fault"
    assert "2 DRAINING" in found["words"]


def test_an_engine_that_is_ill(deployment, becomes):
    daemon, client = deployment
    with engine(status=500) as ill:
        worker(client, "w1", ill)
        found = becomes("fault", "urls", daemon, "m")
    assert found["words"] == f"requests placed on w1 ({ill}/health: 500) fail"


def test_an_engine_whose_name_is_not_known_here(deployment, becomes):
    daemon, client = deployment
    worker(client, "w1", "http://w1.invalid:8000")
    found = becomes("fault", "urls", daemon, "m")
    assert "its name does not resolve here); others answer" in found["words"]
    worker(client, "w0", "http://w0.invalid:8000")
    found = becomes("unknown", "urls", daemon, "m")
    assert "run eldr doctor where the proxies run" in found["fix"]


def test_workers_that_have_not_reported_yet(examined, url):
    with running_daemon(*PATIENT) as daemon, Client(daemon.grpc) as client:
        for worker_id in ("w0", "w1"):
            client.register("m", worker_id, url=url, state=fleet_pb2.WORKER_STATE_JOINING)
        found = examined(daemon, code=1)["accepting", "m"]
        assert "2 JOINING" in found["words"]
        assert "an engine reports READY once" in found["fix"]
        worker(client, "w0", url)
        found = examined(daemon, code=0)["accepting", "m"]
    assert found["words"] == "of 2 decode workers 1 JOINING, 1 READY"


def test_an_engine_that_is_to_come_is_not_dead_yet(deployment, becomes):
    daemon, client = deployment
    with engine() as later:
        pass
    client.register("m", "w2", url=later, state=fleet_pb2.WORKER_STATE_JOINING)
    becomes("ok", "urls", daemon, "m")


def test_no_worker_that_decodes(examined, url):
    with running_daemon(*PATIENT) as daemon, Client(daemon.grpc) as client:
        worker(client, "p0", url, role=fleet_pb2.WORKER_ROLE_PREFILL)
        found = examined(daemon, code=1)["accepting", "m"]
    assert "no decode worker is known" in found["words"]
    assert "eldr workers add ID --model m" in found["fix"]


def test_all_are_full(deployment, becomes, url):
    daemon, client = deployment
    for number, worker_id in enumerate(("w0", "w1")):
        worker(client, worker_id, url, capacity=fleet_pb2.WorkerCapacity(sequences=1))
        client.route("m", f"r{number}", pinned_worker=worker_id)
        found = becomes("fault" if number else "ok", "room", daemon, "m")
        assert number or found["words"] == "w0 is full, others are not"
    assert "RESOURCE_EXHAUSTED" in found["words"]
    assert "--max-num-seqs" in found["fix"]
