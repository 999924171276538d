import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder

from eldr_service.core.capture import CaptureState, CaptureStatus
from eldr_service.server.observability.exposition import SLICE, slices
from eldr_service.server.observability.gauges import ModelState, RouterState, WorkerState
from eldr_service.server.observability.metrics import Metrics

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def shown(metrics):
    return generate_latest(metrics).decode()


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
    assert 'eldr_capture_workers{model="m",state="STOPPED"} 1.0' in text
    assert 'eldr_capture_workers{model="m",state="UNSAID"} 1.0' in text
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
        metrics.placed(model, "locality-band", "LOCALITY_BAND", worker, "CALLER")
    metrics.forget_worker("m", "w0")
    metrics.forget_worker("m", "never there")
    left = re.findall(r'eldr_placements_total\{model="(\w+)",.*worker="(\w+)"', shown(metrics))
    assert left == [("m", "w1"), ("n", "w0")]


def test_a_forgotten_model_takes_its_series_along():
    metrics = Metrics(RouterState, most_workers=1)
    for model in "mn":
        for worker in ("w0", "w1"):
            metrics.placed(model, "locality-band", "LOCALITY_BAND", worker, "SESSION")
        for counter in (metrics.releases, metrics.refits, metrics.bookings_ended):
            counter.labels(model, "x").inc()
        metrics.signatures_predicted.labels(model, "SESSION").inc()
    metrics.forget_worker("m", "w0")
    metrics.forget_model("m")
    text = shown(metrics)
    assert 'model="m"' not in text
    assert text.count('model="n"') == 6


def test_workers_beyond_the_most_add_up():
    workers = [WorkerState(name, "READY", 0.5, 3) for name in ("w0", "other", "other")]
    metrics = Metrics(lambda: RouterState((ModelState("m", workers),)), most_workers=1)
    for worker in ("w0", "w1", "w2", "other"):
        metrics.placed("m", "p", "POLICY", worker, "NONE")
    text = shown(metrics)
    placed = re.findall(r'eldr_placements_total{.*worker="(\w+)"} (\S+)', text)
    booked = re.findall(r'eldr_worker_booked_sequences{.*worker="(\w+)"} (\S+)', text)
    assert placed == [("w0", "1.0"), ("other", "3.0")]
    assert booked == [("w0", "3.0"), ("other", "6.0")]
    assert re.findall(r'eldr_worker_load{.*worker="(\w+)"}', text) == ["w0"]
    assert 'eldr_workers{model="m",state="READY"} 3.0' in text
    metrics.forget_worker("m", "w0")  # its place is free, and what the others have stays
    metrics.placed("m", "p", "POLICY", "w1", "NONE")
    placed = re.findall(r'eldr_placements_total{.*worker="(\w+)"} (\S+)', shown(metrics))
    assert placed == [("other", "3.0"), ("w1", "1.0")]


def test_nothing_tells_when_a_series_began():
    metrics = Metrics(RouterState)
    metrics.errors.labels("method", "NOT_FOUND").inc()
    for encode in ENCODERS.values():
        assert b"_created" not in encode(metrics)


def test_labels_may_hold_anything():
    state = RouterState((ModelState('a"b\\c\nd', (WorkerState("ü{}", "READY", 0, 0),)),))
    assert r'model="a\"b\\c\nd",worker="ü{}"' in shown(Metrics(lambda: state))


def test_two_daemons_in_one_process_do_not_share():
    first, second = Metrics(RouterState), Metrics(RouterState)
    first.errors.labels("/eldr.v1.RouterService/Route", "NOT_FOUND").inc()
    assert "NOT_FOUND" not in shown(second)


ENCODERS = {
    "text": generate_latest,
    "OpenMetrics": choose_encoder("application/openmetrics-text; version=1.0.0")[0],
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_slices_together_are_what_is_written_at_once(encode):
    said = CaptureStatus(CaptureState.STOPPED, "", 7, 3)
    workers = [WorkerState(f"w{i}", "READY", i / 8, i, said) for i in range(1_000)]
    metrics = Metrics(lambda: RouterState((ModelState("m", iter(workers)),)))
    for i in range(3_000):
        metrics.placed("m", "locality-band", f"REASON_{i % 3}", f"w{i // 3}", "CALLER")
        metrics.errors.labels(f"method {i % 300}", "NOT_FOUND").inc()
    parts = list(slices(metrics.parts(), encode))
    lines, whole = b"".join(parts).splitlines(), encode(metrics).splitlines()
    # The daemon's own processor time and memory go on between the two.
    ours = [line for line in whole if b"process_" not in line]
    assert [line for line in lines if b"process_" not in line] == ours
    assert len(ours) > 8_000
    of_workers = [part.count(b'worker="') for part in parts]
    assert sum(of_workers) == 8_000
    assert max(of_workers) <= SLICE


def test_others_have_their_turn_while_workers_are_looked_at():
    looked_at = []

    def workers():
        for number in range(1_000):
            looked_at.append(number)
            yield WorkerState(f"w{number}", "READY", 0.0, 0)

    most = before = 0
    for _ in Metrics(lambda: RouterState((ModelState("m", workers()),))).parts():
        most, before = max(most, len(looked_at) - before), len(looked_at)
    assert before == 1_000
    assert most <= 64


def test_every_metric_is_documented():
    text = shown(Metrics(RouterState))
    names = set(re.findall(r"^# TYPE (eldr_\w+)", text, re.M))
    assert names == set(re.findall(r"^\| `(eldr_\w+)", DOCS.read_text(), re.M))
