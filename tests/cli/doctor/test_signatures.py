"""`eldr doctor`: signatures that are not captured, or do not arrive."""

from deployment import OURS, bad, serve, worker
from eldr.v1 import fleet_pb2


def test_an_engine_that_does_not_capture(deployment, examined, url):
    daemon, client = deployment
    reason = "layer 3 routes in a fused kernel"
    stopped = fleet_pb2.CaptureStatus(state="CAPTURE_STATE_STOPPED", reason=reason)
    worker(client, "w1", url, stopped)
    found = examined(daemon, code=0)["capture", "m"]
    assert (found["outcome"], found["words"]) == ("warning", f"nothing on w1: {reason}")
    worker(client, "w0", url, stopped)
    found = examined(daemon, code=1)["capture", "m"]
    assert found["words"] == f"nothing on w0, w1: {reason}; all go by load"


def test_signatures_that_do_not_come(deployment, examined):
    daemon, client = deployment
    serve(client, 30, signatures=False)
    found = examined(daemon, code=1)
    assert bad(found) == {"signatures"}
    told = "100% of 30 placements since the daemon's start had no signature: by load alone"
    assert found["signatures", "m"]["words"] == told
    found = examined(daemon, "--watch", "0.2", code=0)["signatures", "m"]
    assert found["words"] == "nothing was placed in the 0.2 s watched"


def test_an_engine_of_another_version(deployment, examined, url):
    daemon, client = deployment
    other = fleet_pb2.CaptureStatus(
        state="CAPTURE_STATE_CAPTURING", known_tokens=9, software="eldr-vllm 0.0.9"
    )
    worker(client, "w1", url, other)
    found = examined(daemon, code=0)["versions", "m"]
    assert found["outcome"] == "warning"
    assert found["words"] == f"what captures is 0.0.9 at w1; this eldr is {OURS}"
