"""`eldr doctor`: bookings that end otherwise than by their caller's release."""

from deployment import CAPTURING, bad, report, serve
from eldr.v1 import fleet_pb2
from google.protobuf.duration_pb2 import Duration
from wire import eventually


def test_releases_that_do_not_come(deployment, examined):
    daemon, client = deployment
    serve(client, 12, released=False, lease_ttl=Duration(seconds=1))
    eventually(lambda: not client.booked("m"))
    found = examined(daemon, code=1)
    assert bad(found) == {"releases"}
    told = "100% of 12 bookings that ended since the daemon's start expired: no caller"
    assert found["releases", "m"]["words"].startswith(told)


def test_bookings_that_workers_end(deployment, examined):
    daemon, client = deployment
    serve(client, 12, released=False, pinned_worker="w0")
    life = client.workers("m")["w0"].incarnation
    held = [fleet_pb2.HeldRequest(request_id=f"r{number}") for number in range(12)]
    for number, some in enumerate((held, (), ()), start=2):
        report(client, "w0", life, number, held=some, capture=CAPTURING)
    eventually(lambda: not client.booked("m"))
    found = examined(daemon, code=0)
    assert bad(found) == {"releases"}
    assert "were ended by a worker's report: no caller released" in found["releases", "m"]["words"]
