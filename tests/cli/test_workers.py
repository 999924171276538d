import io
import time

import grpc
import pytest
from eldr.v1 import fleet_pb2, fleet_pb2_grpc
from rich.console import Console

from eldr_service.cli import capture
from eldr_service.cli.tables import table


def test_an_empty_fleet_says_how_it_begins(eldr):
    assert "eldr workers add" in eldr("workers", "list")
    assert eldr.json("workers", "list") == {"workers": []}


def test_workers_come_and_go(fleet):
    header, *rows = (line.split() for line in fleet("workers", "list").splitlines())
    assert header[:4] == ["MODEL", "WORKER", "ROLE", "STATE"]
    assert rows[0][:4] == ["m", "w0", "DECODE", "READY"]
    assert rows[0][6:] == ["0.00", "0/4", "0", "http://0", "never"]
    assert fleet("workers", "drain", "w0") == "draining w0 of m: 0 sequences booked on it\n"
    assert fleet.json("workers", "list")["workers"][0]["state"] == "WORKER_STATE_DRAINING"
    assert fleet("workers", "remove", "w0") == "removed w0 from m: 0 bookings ended\n"
    assert [w["worker_id"] for w in fleet.json("workers", "list")["workers"]] == ["w1", "w2"]


def test_everything_that_can_be_said_of_a_worker(fleet):
    added = fleet.json(
        *("workers", "add", "p0", "--model", "m", "--url", "http://p", "--role", "prefill"),
        *("--capacity", 9, "--kv-tokens", 1000, "--group", "g", "--dp-rank", 2),
        *("--label", "zone=a", "--label", "note=x=y"),
    )
    assert int(added["incarnation"]) > 0
    worker = fleet.json("workers", "list", "--model", "m")["workers"][-1]
    assert worker["role"] == "WORKER_ROLE_PREFILL"
    assert worker["capacity"] == {"sequences": 9, "kv_tokens": "1000"}
    assert worker["labels"] == {"zone": "a", "note": "x=y"}
    assert (worker["group"], worker["dp_rank"]) == ("g", 2)
    assert "http://p rank 2" in fleet("workers", "list")


def test_a_worker_that_is_there_is_left_alone(fleet):
    add = "workers", "add", "w0", "--model", "m", "--url", "http://moved"
    before = fleet.json("workers", "list")["workers"]
    refused = fleet(*add, code=1)
    assert "w0 of m is there already: READY, with 0 bookings" in refused
    assert "--again" in refused
    assert fleet.json("workers", "list")["workers"] == before
    fleet(*add, "--again")
    after = {worker["worker_id"]: worker for worker in fleet.json("workers", "list")["workers"]}
    assert after["w0"]["url"] == "http://moved"
    assert int(after["w0"]["incarnation"]) > int(before[0]["incarnation"])


def test_a_stale_report_is_marked(fleet, daemon):
    with grpc.insecure_channel(daemon.grpc) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        life = fleet.json("workers", "list")["workers"][0]["incarnation"]
        stub.ReportLoad(
            fleet_pb2.ReportLoadRequest(
                model="m", worker_id="w0", incarnation=int(life), report_number=1
            )
        )
    time.sleep(0.3)
    assert ", stale" in fleet("workers", "list").splitlines()[1]


def reports(fleet, daemon, **captures):
    """Let workers say how their capture stands."""
    with grpc.insecure_channel(daemon.grpc) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        for worker in fleet.json("workers", "list")["workers"]:
            request = fleet_pb2.ReportLoadRequest(model="m", worker_id=worker["worker_id"])
            request.incarnation, request.report_number = int(worker["incarnation"]), 1
            request.capture.CopyFrom(captures[worker["worker_id"]])
            assert stub.ReportLoad(request).accepted


Capture = fleet_pb2.CaptureStatus


@pytest.mark.parametrize(
    ("status", "cell"),
    [
        (Capture(), "-"),
        (Capture(state=1, known_tokens=9), "probing"),
        (Capture(state=2), "yes"),
        (Capture(state=2, known_tokens=2**64 - 1), "yes 100%"),
        (Capture(state=2, known_tokens=999, unknown_tokens=1), "yes 99%"),  # 100% would be untrue
        (Capture(state=2, unknown_tokens=2**64 - 1), "yes 0%"),
        (Capture(state=3, reason="why", known_tokens=9), "no"),
        (Capture(state=99), "-"),  # of a daemon that knows more states
    ],
)
def test_the_cell_of_a_capture(status, cell):
    assert str(capture.cell(status)) == cell


def test_who_captures_and_why_not(fleet, daemon):
    assert fleet("workers", "list").splitlines()[1].split()[4] == "-"
    why = "no layer told its experts\nin three steps"
    reports(
        fleet,
        daemon,
        w0=Capture(state=3, reason=why),
        w1=Capture(state=2, known_tokens=98, unknown_tokens=2, reason="ranks not compared"),
        w2=Capture(state=3, reason=why),
    )
    header, *rows, blank, stopped, unverified = fleet("workers", "list").splitlines()
    assert header.split()[4] == "CAPTURE"
    assert [row.split()[4] for row in rows] == ["no", "yes", "no"]
    assert "yes 98%" in rows[1]
    assert not blank
    assert stopped == "no capture on w0, w2 of m: no layer told its experts in three steps"
    assert unverified == "unverified on w1 of m: ranks not compared"
    first, second, _ = (w["capture"] for w in fleet.json("workers", "list")["workers"])
    assert first == {
        "state": "CAPTURE_STATE_STOPPED", "reason": why, "known_tokens": "0", "unknown_tokens": "0",
        "software": "",
    }  # fmt: skip
    assert (second["known_tokens"], second["unknown_tokens"]) == ("98", "2")


def test_a_table_that_does_not_fit_moves_its_columns_together():
    shown = table(["WORKER", ">LOAD"], [["decode-0", "0.25"]])

    def lines(width):
        console = Console(width=width, file=io.StringIO())
        console.print(shown)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    assert lines(14) == ["WORKER    LOAD", "decode-0  0.25"]
    assert lines(13) == ["WORKER   LOAD", "decode-0 0.25"]
    assert lines(14) == ["WORKER    LOAD", "decode-0  0.25"]
    assert lines(11)[1:] == ["decode 0.25", "-0"]


def test_wrong_workers_are_refused(fleet):
    add = "workers", "add", "w9", "--model", "m", "--url", "u"
    assert fleet("workers", "drain", "nobody", code=1).startswith("error: no worker nobody;")
    assert "error: model nope is unknown" in fleet("workers", "list", "--model", "nope", code=1)
    assert "not 4 layers x 16" in fleet(*add, "--geometry", "4x16x2", code=1)
    assert "such as 48x128x8, found '4x16'" in fleet(*add, "--geometry", "4x16", code=2)
    assert "expected key=value, found 'zone'" in fleet(*add, "--label", "zone", code=2)
    assert "4294967295" in fleet(*add, "--capacity", 2**32, code=2)
    assert "error: WORKER: expected 1 to 256 bytes" in fleet(
        "workers", "add", "x" * 300, "--model", "m", "--url", "u", code=1
    )
    assert "--url" in fleet("workers", "add", "w9", "--model", "m", code=2)
