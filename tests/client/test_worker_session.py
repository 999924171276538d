import grpc
import pytest
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
    assert router.calls[-1][0] == "RemoveWorker"
    assert router.calls[-1][1].incarnation == 1


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


def test_a_joining_worker_is_silent_until_it_is_ready(router):
    with session(router, ready=False) as worker:
        eventually(lambda: worker.incarnation == 1)
        assert not router.requests("ReportLoad")
        worker.set_ready()
        eventually(lambda: router.requests("ReportLoad"))
    joining, ready = router.requests("RegisterWorker")
    assert (joining.state, joining.time_to_live.seconds) == (1, 0)
    assert (ready.state, ready.time_to_live.seconds) == (2, 30)


def test_a_token_that_may_not_remove_leaves_the_worker_to_expire(router):
    router.script["RemoveWorker"] = lambda _, context: refuse(
        context, grpc.StatusCode.PERMISSION_DENIED, "admin only"
    )
    with session(router):
        eventually(lambda: router.requests("ReportLoad"))


def test_a_role_that_is_none_is_said_at_once(router):
    with pytest.raises(ValueError, match="COOK"):
        session(router, role="COOK")
