"""The demo in short: real daemon, real engine process, and the plain loop beside them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from eldr.v1 import fleet_pb2, router_pb2
from routed import separable
from wire import eventually

from benchmarks.demos.demo import data
from benchmarks.demos.demo.__main__ import main
from benchmarks.demos.demo.driver import Driver
from benchmarks.demos.demo.plain import plain_run
from benchmarks.demos.demo.processes import CHECKOUT, DemoError, running_daemon, running_engines
from benchmarks.demos.demo.settings import settings
from benchmarks.demos.demo.verdict import compared
from benchmarks.demos.demo.workload import Workload, default_workers
from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.contender import BAND, PAPERS_BAND, TUNED_BAND, names
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.tuning import WIDTHS

COST = "gpt-oss-120b-h200"


def demo(*options, **kwargs):
    command = [sys.executable, "-m", "benchmarks.demos.demo", *options]
    return subprocess.Popen(
        command, cwd=CHECKOUT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "four-kinds.npz"
    separable(4, 12, layers=4, tokens=80).save(path)
    return str(path)


@pytest.fixture(scope="module")
def work(path):
    """So much load that arrivals have to wait."""
    return Workload.make(
        data.load(path), built_in_costs()[COST], workers=3, rate=6000.0, requests=120, seed=1
    )


@pytest.fixture(scope="module")
def partition(work):
    counts = work.recording.prefill_counts()[work.fitted]
    return fit_partition("four-kinds", counts, work.recording.geometry, n_clusters=3)


@pytest.fixture(scope="module")
def rows(work, partition):
    return settings(compared("marginal-cost"), work, "four-kinds", partition)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running_daemon(tmp_path_factory.mktemp("daemon")) as addresses:
        yield addresses["grpc"]


@pytest.fixture(scope="module")
def driver(path, work, daemon, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("engines")
    with running_engines(scratch, daemon, "four-kinds", path, COST, work.oracle) as engines:
        driver = Driver(daemon, engines, "four-kinds", work)
        yield driver
        driver.close()


@pytest.mark.parametrize("policy", compared("marginal-cost"))
def test_the_plain_loop_agrees_placement_by_placement(policy, driver, work, rows):
    run, plain = driver.drive(rows[policy]), plain_run(rows[policy], work)
    assert run.placements == plain.placements
    assert run.outcome == plain.outcome
    assert run.waited > 0
    assert len(run.placements) == len(run.route_s) == len(work.arrivals)
    band = policy.startswith("locality-band")
    assert set(run.reasons) == {"LOCALITY_BAND" if band else "POLICY"}


def test_each_band_is_what_it_is_called(rows, partition):
    paper, tuned, auto = (rows[band] for band in (PAPERS_BAND, TUNED_BAND, BAND))
    assert (paper.partition.transform.name, paper.parameters) == ("counts-idf", {"tau": "0.1"})
    assert (auto.partition, auto.parameters) == (partition, {})
    assert list(tuned.parameters) == ["width"]
    assert float(tuned.parameters["width"]) in WIDTHS


def test_no_recording_is_in_flight_twice(driver, work, rows, monkeypatch):
    engines, in_flight, seen = driver._engines, {}, []

    def watched(method, **request):
        for start in request.get("starts", ()):
            assert start["recording"] in work.driven
            assert start["recording"] not in in_flight.values()
            in_flight[start["request_id"]] = start["recording"]
            seen.append(len(in_flight))
        answer = engines(method, **request)
        for done in answer.get("finished", ()):
            del in_flight[done["request_id"]]
        return answer

    monkeypatch.setattr(driver, "_engines", watched)
    run = driver.drive(rows["locality-band"])
    assert not in_flight
    assert len(seen) == len(run.placements)
    assert max(seen) == run.most_in_flight == len(work.driven)


def test_the_daemon_counts_nothing_between_runs_and_the_demo_makes_sure(driver, rows):
    def booked():
        return sum(w.booked_sequences for w in driver._fleet.ListWorkers(request).workers)

    request = fleet_pb2.ListWorkersRequest(model="four-kinds")
    driver.drive(rows["round-robin"])
    assert booked() == 0
    left = {"model": "four-kinds", "request_id": "left behind"}
    driver._router.Route(router_pb2.RouteRequest(**left))
    with pytest.raises(DemoError, match="still counts"):
        driver._check_empty()
    driver._router.Release(router_pb2.ReleaseRequest(**left))
    driver._check_empty()


def test_engines_report_to_the_daemon(driver, rows):
    driver.drive(rows["random"])
    deadline = time.monotonic() + 10
    while True:
        workers = driver._fleet.ListWorkers(fleet_pb2.ListWorkersRequest()).workers
        if all(w.active_experts > 2 for w in workers):  # top_k = 2 of one sequence
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [w.worker_id for w in workers] == ["decode-0", "decode-1", "decode-2"]
    assert [w.dp_rank for w in workers] == [0, 1, 2]
    assert not any(w.stale for w in workers)
    assert all(w.batch_size >= 1 for w in workers)


def test_without_shared_data_the_sample_is_driven(tmp_path, monkeypatch):
    assert data.default_name(tmp_path) == data.SAMPLE
    np.savez(tmp_path / "counts-alone.npz", counts=np.ones((2, 3, 4), dtype=int))
    assert data.default_name(tmp_path) == data.SAMPLE
    for requests in (6, 9):
        separable(3, requests // 3).save(tmp_path / f"{requests}.npz")
    assert data.default_name(tmp_path) == str(tmp_path / "9.npz")


def test_the_page_and_the_document(tmp_path):
    process = demo("--data=sample", "--requests=40", f"--json={tmp_path / 'demo.json'}")
    page, progress = process.communicate(timeout=120)
    assert process.returncode == 0, progress
    for words in (
        "the sample that ships with the project",
        "a byte-level Qwen3-MoE that the project trained",
        "4 layers x 32 experts, top-2",
        "makes the same",
        "for all policies but marginal-cost",
        "(seeds 1 to 4, plain loop)",
        "What to try next",
        "make demo SEED=1",
        "make demo POLICY=marginal-cost",
        "japanese",
        *names(compared("locality-band")).values(),
        "locality-band:tau=0.1, signature transform counts-idf",
    ):
        assert words in page
    assert "\x1b" not in page  # readable in a pipe
    assert "…" not in page
    assert "drive band, tuned" in progress
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["plain_loop"]["differing"] == []
    assert list(result["policies"]) == list(compared("locality-band"))
    for policy, figures in result["policies"].items():
        assert figures["placements"] == result["arrivals"]
        same = result["plain_loop"]["policies"][policy]
        assert same == {name: figures[name] for name in same}
    assert list(result["other_seeds"]) == ["1", "2", "3", "4"]
    assert np.sum(result["heat_map"]["placements"]) == result["arrivals"]
    assert f"{result['policies']['locality-band']['active_experts']:.2f}" in page


def placements(address):
    with urllib.request.urlopen(f"http://{address}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(x.split()[-1]) for x in lines if x.startswith("eldr_placements_total"))


def test_on_request_the_daemon_stays_with_traffic_and_its_page(tmp_path):
    process = demo(
        "--data=sample", "--requests=40", f"--json={tmp_path / 'demo.json'}", "--keep", bufsize=1
    )
    for line in process.stdout:
        if found := re.search(r"http://(\S+)/", line):
            break
    with urllib.request.urlopen(found[0]) as page:
        assert "<title>" in page.read().decode()
    before = placements(found[1])
    eventually(lambda: placements(found[1]) > before + 20)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_nothing_is_left_when_it_is_interrupted(number, code, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = demo("--data=sample", f"--json={tmp_path / 'demo.json'}", env=environment)
    deadline = time.monotonic() + 120
    while not (found := list(tmp_path.glob("eldr-demo-*/ports.json"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    port = int(json.loads(found[0].read_text())["grpc"].rpartition(":")[2])
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data=missing.npz"], "missing.npz: neither a file nor one of sample"),
        (["--data=sampel"], "did you mean sample?"),
        (["--data=sample", "--workers=241"], "241 workers need as many requests to fit on: 240"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(options, message, capsys):
    assert main(options) == 1
    page, errors = capsys.readouterr()
    assert page == ""
    assert message in errors.replace("\n", " ")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--workers=1", "--workers: expected 2 or more, found 1"),
        ("--rate=0", "--rate: expected more than 0, found 0"),
        ("--cost=free", "invalid choice"),
        ("--policy=marginal-costs", "found marginal-costs; did you mean marginal-cost?"),
    ],
)
def test_wrong_use(option, message, capsys):
    with pytest.raises(SystemExit) as error:
        main([option])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_child_that_cannot_start_is_quoted(tmp_path, daemon):
    with (
        pytest.raises(DemoError, match=r"(?s)engines: ended.*nowhere\.npz"),
        running_engines(tmp_path, daemon, "m", "nowhere.npz", COST, ["", ""]),
    ):
        pass


def test_defaults_fit_the_recording(work):
    assert [default_workers(n) for n in (164, 64, 54, 39, 5)] == [16, 4, 4, 2, 1]
    assert [len(half) for half in (work.fitted, work.driven)] == [24, 24]
    assert not set(work.fitted.tolist()) & set(work.driven.tolist())
    of_domains = Workload.make(
        work.recording, work.cost, workers=8, rate=None, requests=50, seed=0
    ).oracle
    assert len(of_domains) == 8
    assert set(",".join(of_domains).split(",")) == {"0", "1", "2", "3"}
