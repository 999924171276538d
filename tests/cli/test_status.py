"""`eldr status`: what it says of a fleet, in a terminal and to programs."""

import re

import pytest
from daemon import running_daemon
from live_fleet import LiveFleet
from wire import eventually


def test_a_daemon_without_models(eldr_at):
    with running_daemon() as daemon:
        assert "knows no model yet" in eldr_at(daemon.grpc)("status")
        assert eldr_at(daemon.grpc).json("status")["models"] == []


def test_what_is_wrong_is_said(fresh_fleet):
    (model,) = fresh_fleet.json("status")["models"]
    assert (model["model"], model["ready"], model["decode_workers"]) == ("m", 3, 3)
    assert (model["policy"], model["partition_version"]) == ("locality-band", 0)
    assert model["active_experts"] is None
    assert ["no partition" in trouble for trouble in model["troubles"]] == [True]
    for worker in "w0", "w1", "w2":
        fresh_fleet("workers", "drain", worker)
    (model,) = fresh_fleet.json("status")["models"]
    assert any("no decode worker is READY" in trouble for trouble in model["troubles"])
    said = fresh_fleet("status")
    assert re.search(r"m +locality-band +- +0/3", said)
    assert "no decode worker is READY" in said


def test_reports_are_summed_up(eldr_at):
    with (
        running_daemon("--report-limit", "1") as daemon,
        LiveFleet(daemon.grpc, ["w0", "w1"], decode_s=0.5) as fleet,
    ):
        eldr = eldr_at(daemon.grpc)
        eventually(lambda: fleet.placed > 60)
        eventually(lambda: eldr.json("status")["models"][0]["active_experts"])
        (model,) = eldr.json("status")["models"]
        assert 4 < model["active_experts"] <= 32
        assert model["step_seconds"] > 2e-3
        assert model["load"] == pytest.approx(model["booked_sequences"] / 64)


def test_an_unknown_model_is_an_error(fresh_fleet):
    assert "unknown" in fresh_fleet("status", "--model", "other", code=1)
