"""`eldr doctor`: what is wrong with the daemon, or what it refuses."""

import os
import shutil
import time
from importlib.metadata import distribution

import grpc
import pytest
from daemon import running_daemon
from deployment import OURS
from eldr.v1 import activation_pb2


def test_a_model_that_is_unknown(deployment, examined):
    daemon, _ = deployment
    found = examined(daemon, "--model", "other", code=1)
    assert "other" in found["models", ""]["words"]
    assert found["credentials", ""]["outcome"] == "ok"
    with running_daemon() as empty:
        assert examined(empty, code=0)["models", ""]["outcome"] == "unknown"


def test_a_partition_of_another_shape(deployment, examined, url):
    daemon, client = deployment
    other = activation_pb2.ModelGeometry(num_layers=7, num_experts=16, top_k=2)
    with pytest.raises(grpc.RpcError):
        client.register("m", "w2", url=url, geometry=other)
    found = examined(daemon, code=1)["refusals", ""]
    assert "1 registration of workers refused" in found["words"]
    assert "shape" in found["words"]


def test_a_clock_that_is_apart(deployment, examined, monkeypatch):
    daemon, _ = deployment
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 30)
    found = examined(daemon, code=0)["clock", ""]
    assert found["outcome"] == "warning"
    assert found["words"].endswith("s behind this one")
    monkeypatch.setattr(time, "time", lambda: right() + 3_600)
    found = examined(daemon, code=1)["clock", ""]
    assert found["words"] == "the daemon's is 60 min behind this one"
    found = examined(daemon.grpc, code=1)["clock", ""]  # by reports: there is no HTTP at 9464
    assert found["words"] == "the daemon's is 60 min behind this one"


def test_a_daemon_of_another_version(tmp_path, examined):
    other = tmp_path / "eldr_service-99.0.0.dist-info"
    shutil.copytree(
        distribution("eldr-service").locate_file(f"eldr_service-{OURS}.dist-info"), other
    )
    metadata = (other / "METADATA").read_text()
    (other / "METADATA").write_text(metadata.replace(f"\nVersion: {OURS}", "\nVersion: 99.0.0"))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with running_daemon(env={"PYTHONPATH": path}) as daemon:
        found = examined(daemon, code=1)["versions", ""]
    assert "99.0.0" in found["words"]
    assert f"this eldr is {OURS}" in found["words"]
