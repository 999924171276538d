"""What workers say of their capture, as the daemon lists, shows and logs it."""

import itertools
import urllib.request

import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2
from eldr_client import CaptureStatus, LoadReport, WorkerSession
from prometheus_client.parser import text_string_to_metric_families
from wire import Client, eventually

Said = fleet_pb2.CaptureStatus
PROBING, CAPTURING, STOPPED = (
    fleet_pb2.CAPTURE_STATE_PROBING,
    fleet_pb2.CAPTURE_STATE_CAPTURING,
    fleet_pb2.CAPTURE_STATE_STOPPED,
)
NUMBERS = itertools.count(1)


def report(client, model, life, capture=None, number=None, **fields):
    return client.fleet.ReportLoad(
        fleet_pb2.ReportLoadRequest(
            model=model,
            worker_id="w0",
            incarnation=life,
            report_number=number or next(NUMBERS),
            capture=capture,
            **fields,
        )
    ).accepted


def known(client, model):
    """What the daemon lists of w0's capture; None for nothing."""
    worker = client.workers(model)["w0"]
    return worker.capture if worker.HasField("capture") else None


def shown(daemon, model, worker="w0"):
    """Samples of a worker's capture at the metrics' port, as {(name, last label): value}."""
    text = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
    return {
        (sample.name, sample.labels.get("state") or sample.labels["experts"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in ("eldr_worker_capture", "eldr_worker_prompt_tokens_total")
        and (sample.labels["model"], sample.labels["worker"]) == (model, worker)
    }


def logged(daemon, model):
    """The log lines of a model's workers: state, capture, reason."""
    return [
        (line["state"], line.get("capture"), line.get("reason"))
        for line in daemon.logs
        if line["event"] == "worker" and line["model"] == model
    ]


def test_what_is_said_last_holds(client, model):
    at_first = Said(state=STOPPED, reason="é" * 512)
    life = client.register(model, capture=at_first)
    assert known(client, model) == at_first
    largest = Said(state=CAPTURING, known_tokens=2**64 - 1, unknown_tokens=2**64 - 1)
    assert report(client, model, life, largest, number=1_000)
    assert known(client, model) == largest
    assert report(client, model, life, number=1_001)
    assert report(client, model, life, Said(reason="nothing", known_tokens=3), number=1_002)
    late = [(life, 1_002), (life - 1, 1_003)]
    assert not any(report(client, model, of, at_first, number=number) for of, number in late)
    assert known(client, model) == largest


def test_a_new_life_starts_from_nothing(client, daemon, model):
    life = client.register(model, capture=Said(state=PROBING))
    report(client, model, life, Said(state=CAPTURING, known_tokens=9))
    client.register(model)
    assert known(client, model) is None
    assert shown(daemon, model) == {}
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model=model, worker_id="w0"))
    client.register(model)
    assert known(client, model) is None


def test_metrics_show_it_for_as_long_as_the_worker_is_there(client, daemon, model):
    life = client.register(model)
    client.register(model, "says nothing")
    assert shown(daemon, model) == {}
    report(client, model, life, Said(state=PROBING))
    tokens = "eldr_worker_prompt_tokens_total"
    probing = {("eldr_worker_capture", "PROBING"): 1, (tokens, "known"): 0, (tokens, "unknown"): 0}
    assert shown(daemon, model) == probing
    report(client, model, life, Said(state=CAPTURING, known_tokens=98, unknown_tokens=2))
    capturing = {
        ("eldr_worker_capture", "CAPTURING"): 1, (tokens, "known"): 98, (tokens, "unknown"): 2
    }  # fmt: skip
    assert shown(daemon, model) == capturing
    assert shown(daemon, model, "says nothing") == {}
    report(client, model, life, state=fleet_pb2.WORKER_STATE_GONE)
    assert shown(daemon, model) == {}


def test_each_change_is_told_and_logged_once(client, daemon, model):
    life = client.register(model, state=fleet_pb2.WORKER_STATE_JOINING)
    joining, ready = {"state": fleet_pb2.WORKER_STATE_JOINING}, {}
    changes = client.watch(model)
    told = [next(changes).worker]  # from now on it watches
    reports = [
        (Said(state=PROBING), joining),
        (Said(state=PROBING, unknown_tokens=5), joining),  # only tokens: nobody is told
        (None, joining),
        (Said(state=CAPTURING, known_tokens=5), ready),  # two changes, told as one
        (Said(state=CAPTURING, known_tokens=6, reason="ranks not compared"), ready),
        (Said(state=STOPPED, known_tokens=6, reason="layer 3 is silent"), ready),
        (Said(state=STOPPED, known_tokens=7, reason="layer 3 is silent"), ready),
    ]
    for capture, state in reports:
        assert report(client, model, life, capture, **state)
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model=model, worker_id="w0"))
    expected = [
        ("JOINING", None, None),
        ("JOINING", "PROBING", ""),
        ("READY", "CAPTURING", ""),
        ("READY", "CAPTURING", "ranks not compared"),
        ("READY", "STOPPED", "layer 3 is silent"),
        ("GONE", "STOPPED", "layer 3 is silent"),
    ]
    eventually(lambda: len(logged(daemon, model)) >= len(expected))
    assert logged(daemon, model) == expected
    told += [next(changes).worker for _ in expected[1:]]
    state, capture = fleet_pb2.WorkerState.Name, fleet_pb2.CaptureState.Name
    heard = [(state(w.state)[13:], capture(w.capture.state)[14:], w.capture.reason) for w in told]
    assert heard == [(state, how or "UNSPECIFIED", why or "") for state, how, why in expected]
    assert [w.capture.known_tokens for w in told] == [0, 0, 5, 6, 6, 7]


def test_after_a_restart_it_is_unknown_until_it_is_said_again(tmp_path):
    flags = ("--state", str(tmp_path))
    capturing = Said(state=CAPTURING, known_tokens=3)
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        life = client.register("m", capture=capturing)
        report(client, "m", life, capturing)
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        assert client.workers("m")["w0"].incarnation == life
        assert known(client, "m") is None
        assert shown(daemon, "m") == {}
        assert report(client, "m", life)
        assert known(client, "m") is None
        report(client, "m", life, capturing)
        assert known(client, "m") == capturing


@pytest.mark.parametrize("ready", [True, False])
def test_the_clients_session_says_it(client, daemon, model, ready):
    reason = "a layer told nothing: " + "é" * 2_000
    now = [LoadReport(running_sequences=1, capture=CaptureStatus("PROBING"))]
    changes = client.watch(model)
    with WorkerSession(
        "w0", model, "http://w0", lambda: now[0], ready=ready, target=daemon.grpc, timeout=20
    ):
        told = (change.worker.capture for change in changes)
        assert next(c for c in told if c.state) == Said(state=PROBING)
        now[0] = LoadReport(capture=CaptureStatus("STOPPED", reason, 4, 2))
        said = next(c for c in told if c.state == STOPPED)
    assert (said.known_tokens, said.unknown_tokens) == (4, 2)
    assert 1_022 <= len(said.reason.encode()) <= 1_024
    assert reason.startswith(said.reason.removesuffix(" …"))
