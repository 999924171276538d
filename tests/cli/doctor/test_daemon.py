"""`eldr doctor`: what is wrong with the daemon, or what it refuses."""

import time

import grpc
import pytest
from another_version import another_version
from daemon import running_daemon
from deployment import OURS, bad
from eldr.v1 import activation_pb2, fleet_pb2
from typer.testing import CliRunner
from wire import Refused

from eldr_service.cli.app import app


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


def test_a_role_that_is_not_that_of_the_workers_life(deployment, examined, url):
    daemon, client = deployment
    life = client.workers("m")["w1"].incarnation
    prefills = {"url": url, "role": fleet_pb2.WORKER_ROLE_PREFILL}
    with Refused("FAILED_PRECONDITION"):
        client.register("m", "w1", incarnation=life, **prefills)
    found = examined(daemon, code=1)
    assert bad(found) == {"refusals"}
    assert "1 registration of workers refused" in found["refusals", ""]["words"]
    assert "a role other than the worker's life began with" in found["refusals", ""]["words"]
    assert "let an engine that changes its role restart" in found["refusals", ""]["fix"]
    client.register("m", "w1", **prefills)  # as after its restart: a life of its own
    assert examined(daemon, "--watch", "0.2")["refusals", ""]["outcome"] == "ok"


def test_a_registration_whose_token_lacks_the_role(secured_alone, as_role, examined):
    add = "workers", "add", "w0", "--model", "m", "--url", "http://w0"
    CliRunner().invoke(app, [*add, "--server", secured_alone.grpc, *as_role("route").options])
    found = examined(secured_alone, own=as_role("admin").options)["refusals", ""]
    assert found["outcome"] == "warning"
    assert found["words"].endswith("since the daemon's start: 1 PERMISSION_DENIED")
    assert "engines need a token with the role worker" in found["fix"]


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
    with running_daemon(env=another_version("eldr-service", tmp_path)) as daemon:
        found = examined(daemon, code=1)["versions", ""]
    assert "99.0.0" in found["words"]
    assert f"this eldr is {OURS}" in found["words"]
