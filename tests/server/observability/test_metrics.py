import re
from pathlib import Path

from prometheus_client import generate_latest

from eldr_service.core.capture import CaptureState, CaptureStatus
from eldr_service.server.observability.metrics import Metrics, ModelState, RouterState, WorkerState

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def shown(metrics):
    return generate_latest(metrics.registry).decode()


def test_gauges_show_the_state_of_the_moment():
    state = RouterState()
    metrics = Metrics(lambda: state)
    assert "eldr_worker_load{" not in shown(metrics)
    assert "eldr_signatures_held 0.0" in shown(metrics)
    workers = (WorkerState("w0", "READY", 0.5, 8), WorkerState("w1", "DRAINING", 0.25, 4))
    state = RouterState((ModelState("m", workers, leases=12, partition_version=3),), 7, 4096)
    text = shown(metrics)
    for line in (
        'eldr_worker_load{model="m",worker="w0"} 0.5',
        'eldr_worker_booked_sequences{model="m",worker="w1"} 4.0',
        'eldr_workers{model="m",state="READY"} 1.0',
        'eldr_workers{model="m",state="JOINING"} 0.0',
        'eldr_leases{model="m"} 12.0',
        'eldr_partition_version{model="m"} 3.0',
        "eldr_signatures_held 7.0",
        "eldr_signature_bytes 4096.0",
    ):
        assert line in text
    state = RouterState((ModelState("m", workers[:1]),))
    assert 'worker="w1"' not in shown(metrics)


def test_capture_is_shown_of_workers_that_speak_of_it():
    said = CaptureStatus(CaptureState.STOPPED, 'a "reason"', 7, 3)
    workers = WorkerState("w0", "READY", 0, 0), WorkerState("w1", "READY", 0, 0, said)
    text = shown(Metrics(lambda: RouterState((ModelState("m", workers),))))
    tokens = "eldr_worker_prompt_tokens_total"
    assert re.findall(r"^eldr_worker_(?:capture|prompt).*$", text, re.M) == [
        'eldr_worker_capture{model="m",state="STOPPED",worker="w1"} 1.0',
        f'{tokens}{{experts="known",model="m",worker="w1"}} 7.0',
        f'{tokens}{{experts="unknown",model="m",worker="w1"}} 3.0',
    ]


def test_the_state_is_not_asked_for_before_the_first_scrape():
    def not_yet():
        raise AssertionError

    Metrics(not_yet)


def test_a_removed_worker_takes_its_series_along():
    metrics = Metrics(RouterState)
    for model, worker in (("m", "w0"), ("m", "w1"), ("n", "w0")):
        metrics.placements.labels(model, "locality-band", "LOCALITY_BAND", worker).inc()
    metrics.forget_worker("m", "w0")
    metrics.forget_worker("m", "never there")
    left = re.findall(r'eldr_placements_total\{model="(\w+)",.*worker="(\w+)"', shown(metrics))
    assert left == [("m", "w1"), ("n", "w0")]


def test_labels_may_hold_anything():
    state = RouterState((ModelState('a"b\\c\nd', (WorkerState("ü{}", "READY", 0, 0),)),))
    assert r'model="a\"b\\c\nd",worker="ü{}"' in shown(Metrics(lambda: state))


def test_two_daemons_in_one_process_do_not_share():
    first, second = Metrics(RouterState), Metrics(RouterState)
    first.errors.labels("/eldr.v1.RouterService/Route", "NOT_FOUND").inc()
    assert "NOT_FOUND" not in shown(second)


def test_every_metric_is_documented():
    text = shown(Metrics(RouterState))
    names = set(re.findall(r"^# TYPE (eldr_\w+)", text, re.M))
    names = {name for name in names if not name.endswith("_created")}
    assert names == set(re.findall(r"^\| `(eldr_\w+)", DOCS.read_text(), re.M))
