from dataclasses import replace

import grpc
import pytest
from eldr.v1 import fleet_pb2
from eldr.v1.fleet_pb2 import WorkerState
from eldr_client import CaptureStatus, LoadReport, WorkerSession
from scripted_router import refuse
from wire import eventually


def session(router, report=LoadReport, **options):
    return WorkerSession("w0", "m", "http://w0", report, target=router.target, **options)


def test_registers_reports_and_leaves(router):
    report = LoadReport(running_sequences=3, held=[("r", 1)], step_time=0.02, active_experts=9.5)
    with session(router, lambda: report, geometry=(4, 32, 2), max_sequences=64, labels={"a": "b"}):
        eventually(lambda: len(router.requests("ReportLoad")) >= 3)
    (registration,) = router.requests("RegisterWorker")
    assert (registration.geometry.num_experts, registration.capacity.sequences) == (32, 64)
    assert registration.time_to_live.seconds == 30
    first, second, *_ = router.requests("ReportLoad")
    assert (first.report_number, second.report_number, first.incarnation) == (1, 2, 1)
    assert [(h.request_id, h.attempt) for h in first.held] == [("r", 1)]
    assert (first.step_time.nanos, first.active_experts) == (20_000_000, 9.5)
    goodbye = router.requests("ReportLoad")[-1]
    assert (goodbye.state, goodbye.incarnation) == (WorkerState.WORKER_STATE_GONE, 1)


def test_registers_again_when_forgotten(router):
    with session(router) as worker:
        eventually(lambda: router.requests("ReportLoad"))
        router.script["ReportLoad"] = lambda request, context: (
            refuse(context, grpc.StatusCode.NOT_FOUND, "who?")
            if request.incarnation == 1
            else router._ReportLoad(request, context)
        )
        eventually(lambda: worker.incarnation == 2)
        eventually(lambda: router.requests("ReportLoad")[-1].incarnation == 2)


def test_survives_a_router_that_is_away_and_a_report_that_fails(router):
    broken = [True]

    def report() -> LoadReport:
        if broken:
            raise RuntimeError("the engine is busy")
        return LoadReport(running_sequences=1)

    router.stop()
    with session(router, report) as worker:
        router.hold.clear()
        router.start()
        eventually(lambda: worker.incarnation)
        broken.clear()
        eventually(lambda: router.requests("ReportLoad"))


def test_a_joining_worker_says_so_until_it_is_ready(router):
    def too_early() -> LoadReport:
        raise RuntimeError("the engine has no load before it is ready")

    with session(router, too_early, ready=False) as worker:
        eventually(lambda: router.requests("ReportLoad"))
        worker._report = LoadReport
        worker.set_ready()
        eventually(
            lambda: router.requests("ReportLoad")[-1].state == WorkerState.WORKER_STATE_READY
        )
    assert router.requests("ReportLoad")[0].state == WorkerState.WORKER_STATE_JOINING
    (registration,) = router.requests("RegisterWorker")
    assert registration.state == WorkerState.WORKER_STATE_JOINING


def captures(router):
    """What the reports so far said of it, in order, each once."""
    said = [r.capture for r in router.requests("ReportLoad") if r.HasField("capture")]
    return [c for i, c in enumerate(said) if i == 0 or c != said[i - 1]]


def test_a_joining_worker_says_of_its_load_only_whether_it_captures(router):
    load = LoadReport(running_sequences=3, held=[("r", 1)], step_time=0.02)
    now = [replace(load, capture=CaptureStatus("PROBING"))]
    with session(router, lambda: now[0], ready=False) as worker:
        eventually(lambda: captures(router))
        for report in router.requests("ReportLoad"):
            assert report.state == WorkerState.WORKER_STATE_JOINING
            assert not any((report.running_sequences, report.held, report.step_time.nanos))
        now[0] = replace(load, capture=CaptureStatus("CAPTURING", "", 7, 2))
        worker.set_ready()
        eventually(lambda: len(captures(router)) == 2)
        now[0] = load
        eventually(lambda: not router.requests("ReportLoad")[-1].HasField("capture"))
    assert captures(router) == [
        fleet_pb2.CaptureStatus(state="CAPTURE_STATE_PROBING"),
        fleet_pb2.CaptureStatus(state="CAPTURE_STATE_CAPTURING", known_tokens=7, unknown_tokens=2),
    ]


def test_who_registers_again_says_at_once_what_was_known(router):
    report = LoadReport(capture=CaptureStatus("STOPPED", "no MoE layers", 0, 5))
    with session(router, lambda: report) as worker:
        eventually(lambda: router.requests("ReportLoad"))
        router.script["ReportLoad"] = lambda request, context: (
            refuse(context, grpc.StatusCode.NOT_FOUND, "who?")
            if request.incarnation == 1
            else router._ReportLoad(request, context)
        )
        eventually(lambda: worker.incarnation == 2)
    first, second = router.requests("RegisterWorker")
    assert not first.HasField("capture")
    assert second.capture == router.requests("ReportLoad")[0].capture
    assert second.capture.reason == "no MoE layers"


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("", ""),
        ("é" * 512, "é" * 512),
        ("é" * 513, "é" * 510 + " …"),
        ("x" * 10_000, "x" * 1_020 + " …"),
        ("a path \udcff that is no text", "a path ? that is no text"),
    ],
)
def test_a_reason_is_cut_to_what_the_router_takes(said, sent):
    assert CaptureStatus("STOPPED", said).to_proto().reason == sent


def test_a_capture_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected one of PROBING, CAPTURING, STOPPED, found 'OK'"):
        CaptureStatus("OK")
    with pytest.raises(ValueError, match="unknown_tokens: expected 0 or more, found -1"):
        CaptureStatus("CAPTURING", "", 0, -1)


def test_a_goodbye_that_is_refused_does_not_hinder_closing(router):
    with session(router):
        eventually(lambda: router.requests("ReportLoad"))
        router.script["ReportLoad"] = lambda _, context: refuse(
            context, grpc.StatusCode.PERMISSION_DENIED, "not you"
        )


def test_a_role_that_is_none_is_said_at_once(router):
    with pytest.raises(ValueError, match="COOK"):
        session(router, role="COOK")
