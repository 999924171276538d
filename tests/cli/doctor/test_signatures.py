"""`eldr doctor`: signatures that are not captured, or do not arrive."""

import os

import pytest
from daemon import running_daemon
from deployment import CAPTURING, OURS, PATIENT, bad, report, serve, worker
from eldr.v1 import fleet_pb2, router_pb2
from wire import Client, Refused, counts, drawn


def test_an_engine_that_does_not_capture(deployment, examined, url):
    daemon, client = deployment
    reason = "layer 3 routes in a fused kernel"
    stopped = fleet_pb2.CaptureStatus(state="CAPTURE_STATE_STOPPED", reason=reason)
    worker(client, "w1", url, stopped)
    found = examined(daemon, code=0)["capture", "m"]
    assert (found["outcome"], found["words"]) == ("warning", f"no capture on w1: {reason}")
    worker(client, "w0", url, stopped)
    found = examined(daemon, code=1)["capture", "m"]
    assert found["words"] == f"no capture on w0, w1: {reason}; all requests go by load"


def test_an_engine_that_probes_whether_it_can(deployment, becomes, url):
    daemon, client = deployment
    probing = fleet_pb2.CaptureStatus(state="CAPTURE_STATE_PROBING")
    joining = {"state": fleet_pb2.WORKER_STATE_JOINING, "capture": probing}
    life = client.register("m", "w1", url=url, **joining)
    report(client, "w1", life, **joining)
    found = becomes("warning", "capture", daemon, "m")
    told = "w1 still probes whether capture works: no signatures from there yet"
    assert found["words"] == told
    assert found["fix"].startswith("wait a minute and look again")
    report(client, "w1", life, 2, capture=CAPTURING)
    assert becomes("ok", "capture", daemon, "m")["words"] == "2 engines capture"


def test_signatures_that_do_not_come(deployment, examined):
    daemon, client = deployment
    serve(client, 30, signatures=False)
    found = examined(daemon, code=1)
    assert bad(found) == {"signatures"}
    told = "100% of 30 placements since the daemon's start had no signature: placed by load alone"
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
    assert found["words"] == f"the connector is 0.0.9 at w1; this eldr is {OURS}"


def test_prompts_whose_experts_are_unknown(deployment, becomes, url):
    daemon, client = deployment
    told = fleet_pb2.CaptureStatus(
        state="CAPTURE_STATE_CAPTURING", known_tokens=10, unknown_tokens=990
    )
    worker(client, "w1", url, told)
    found = becomes("warning", "coverage", daemon, "m")
    assert found["words"] == "the experts of 9% of prompt tokens are known"
    assert "eldr workers list shows which engine" in found["fix"]


def test_signatures_of_too_little_of_the_prompt(deployment, examined):
    daemon, client = deployment
    for i in range(30):
        client.route("m", f"r{i}", counts=counts(drawn(i % 2, i), unknown_tokens=970))
        client.release("m", f"r{i}")
    found = examined(daemon, code=1)
    assert bad(found) == {"signatures"}
    assert "had a signature of less than half of the prompt" in found["signatures", "m"]["words"]
    assert "locality-band:min_coverage" in found["signatures", "m"]["fix"]


def test_signatures_of_another_shape(deployment, examined):
    daemon, client = deployment
    other = counts(drawn(0, layers=7), num_layers=7)
    with Refused("FAILED_PRECONDITION"):
        client.router.RegisterSignature(
            router_pb2.RegisterSignatureRequest(model="m", request_id="r", counts=other)
        )
    found = examined(daemon, code=0)["refusals", ""]
    assert "for their content: 1 RegisterSignature" in found["words"]
    assert "the daemon's log" in found["fix"]


@pytest.mark.parametrize("parameters", ["LocalityBand.Parameters", "PolicyParameters"])
def test_a_policy_that_fails(tmp_path, examined, url, parameters):
    """Whether or not it is one that compares signatures."""
    (tmp_path / "faulty.py").write_text(
        "from eldr_service.policies.locality_band import LocalityBand\n"
        "from eldr_service.policies.policy import PolicyParameters\n"
        "class Faulty(LocalityBand):\n"
        "    name = 'faulty'\n"
        f"    Parameters = {parameters}\n"
        "    def pick(self, request, fleet):\n"
        "        raise RuntimeError('planted')\n"
    )
    package = tmp_path / "faulty-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[eldr.policies]\nfaulty = faulty:Faulty\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    flags = "--policy", "faulty", *PATIENT
    with running_daemon(*flags, env={"PYTHONPATH": path}) as daemon, Client(daemon.grpc) as client:
        for worker_id in ("w0", "w1"):
            worker(client, worker_id, url)
        client.fit("m")
        serve(client, 20)
        found = examined(daemon, code=1)["signatures", "m"]
    assert "100% of 20 placements" in found["words"]
    assert "met an error in the policy" in found["words"]
    assert "policy failed; eldr policy set locality-band" in found["fix"]
