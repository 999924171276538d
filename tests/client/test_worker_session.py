import grpc
import pytest
from eldr.v1.fleet_pb2 import WorkerState
from eldr_client import LoadReport, WorkerSession
from scripted_router import eventually, refuse


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
        raise AssertionError("the engine is asked before it is ready")

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


def test_a_goodbye_that_is_refused_does_not_hinder_closing(router):
    with session(router):
        eventually(lambda: router.requests("ReportLoad"))
        router.script["ReportLoad"] = lambda _, context: refuse(
            context, grpc.StatusCode.PERMISSION_DENIED, "not you"
        )


def test_a_role_that_is_none_is_said_at_once(router):
    with pytest.raises(ValueError, match="COOK"):
        session(router, role="COOK")
