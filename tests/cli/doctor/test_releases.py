"""`eldr doctor`: bookings that end otherwise than by their caller's release."""

from deployment import bad, serve
from google.protobuf.duration_pb2 import Duration
from wire import eventually


def test_releases_that_do_not_come(deployment, examined):
    daemon, client = deployment
    serve(client, 12, released=False, lease_ttl=Duration(seconds=1))
    eventually(lambda: not client.booked("m"))
    found = examined(daemon, code=1)
    assert bad(found) == {"releases"}
    told = "100% of 12 bookings that ended since the daemon's start did so by their lease"
    assert found["releases", "m"]["words"].startswith(told)
