"""Calls that wait for a place where all workers are full."""

import asyncio
import threading
import time
import urllib.request
from contextlib import ExitStack

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from eldr_client import RouterClient, errors
from google.protobuf.duration_pb2 import Duration
from redis_server import needs_redis, running_redis
from small_daemon import MODEL, SmallDaemon
from wire import Client, Refused, counts, drawn, eventually, read_status, refusal_of

from eldr_service.core.errors import ResourceExhaustedError
from eldr_service.routing.call import RouteCall
from eldr_service.server.rpc.places import Places

SOON = 20  # seconds until which an answer must be there, on a busy machine


def capacity(sequences):
    return {"capacity": fleet_pb2.WorkerCapacity(sequences=sequences)}


def wait(seconds=50.0):
    message = Duration()
    message.FromMilliseconds(round(seconds * 1e3))
    return message


def gauge(daemon, model):
    text = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=20).read().decode()
    line = f'eldr_waiting_calls{{model="{model}"}} '
    return next((float(x.split()[-1]) for x in text.splitlines() if x.startswith(line)), 0.0)


class Line:
    """Calls that wait, and in which order they were answered."""

    def __init__(self, daemon, client, model):
        self._daemon, self._client, self._model = daemon, client, model
        self.calls, self.order = {}, []

    def join(self, request_id, seconds=50.0, metadata=None, client=None, **fields):
        """Call, and return once the daemon has it waiting."""
        before = gauge(self._daemon, self._model)
        request = router_pb2.RouteRequest(
            model=self._model, request_id=request_id, max_wait=wait(seconds), **fields
        )
        call = (client or self._client).router.Route.future(request, timeout=60, metadata=metadata)
        call.add_done_callback(lambda _: self.order.append(request_id))
        self.calls[request_id] = call
        eventually(lambda: gauge(self._daemon, self._model) == before + 1, SOON)

    def answer(self, request_id):
        return self.calls[request_id].result(SOON).placement

    def refusal(self, request_id):
        return refusal_of(self.calls[request_id].exception(SOON))

    def served_by_one_worker(self, first):
        """Release whatever is placed until all are answered; returns their order."""
        last = first
        for served in range(len(self.calls)):
            self._client.release(self._model, last)
            eventually(lambda n=served: len(self.order) > n, SOON)
            last = self.order[-1]
        return self.order


@pytest.fixture
def line(daemon, client, model):
    """One worker with one place, which is taken by r."""
    client.register(model, "w0", **capacity(1))
    client.route(model, "r")
    return Line(daemon, client, model)


def test_a_call_gets_the_place_that_is_freed(client, model, line):
    line.join("a")
    assert client.release(model, "r") == "RELEASED"
    placed = line.answer("a")
    assert (placed.worker_id, placed.repeated) == ("w0", False)
    assert client.booked(model) == 1
    assert client.release(model, "a", lease_id=placed.lease_id) == "RELEASED"


def test_without_max_wait_the_refusal_comes_at_once(client, model, line):
    line.join("a")
    with Refused("RESOURCE_EXHAUSTED") as refused:
        client.route(model, "b")
    assert 0.1 <= refused.status.retry_seconds <= 0.2
    with Refused("RESOURCE_EXHAUSTED"):
        client.route(model, "b", max_wait=wait(), dry_run=True)


def test_who_was_refused_together_comes_back_apart(client, model, line):
    delays = set()
    for number in range(8):
        with Refused("RESOURCE_EXHAUSTED") as refused:
            client.route(model, f"r{number}")
        delays.add(refused.status.retry_seconds)
    assert len(delays) > 6


def test_a_wait_ends(client, model, line):
    began = time.monotonic()
    line.join("a", 0.6)
    refused = line.refusal("a")
    assert time.monotonic() - began >= 0.6
    assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED")
    assert 0.1 <= refused.retry_seconds <= 0.2
    assert "at capacity" in refused.message
    assert "0.6 s" in refused.message
    client.release(model, "r")
    assert client.booked(model) == 0


@pytest.mark.parametrize(
    ("fields", "field", "expected"),
    [
        ({"max_wait": wait(61)}, "max_wait", "0 to 60 s"),
        ({"priority": 11}, "priority", "-10 to 10"),
        ({"priority": -11}, "priority", "-10 to 10"),
    ],
)
def test_what_is_out_of_bounds_is_refused(client, model, line, fields, field, expected):
    with Refused("INVALID_ARGUMENT") as refused:
        client.route(model, "a", **fields)
    assert (refused.status.field, refused.status.expected) == (field, expected)


def test_higher_priorities_are_first_then_earlier_arrivals(line):
    for request_id, priority in [("a", 0), ("b", 10), ("c", -10), ("d", 10), ("e", 0)]:
        line.join(request_id, priority=priority)
    assert line.served_by_one_worker("r") == ["b", "d", "a", "e", "c"]


def test_a_step_of_priority_is_worth_a_second(line):
    line.join("low")
    time.sleep(2.1)
    line.join("higher", priority=2)
    line.join("highest", priority=10)
    assert line.served_by_one_worker("r") == ["highest", "low", "higher"]


def test_who_gave_up_takes_no_place(client, model, line):
    line.join("cancelled")
    line.join("late")
    line.calls["cancelled"].cancel()
    request = router_pb2.RouteRequest(model=model, request_id="deadline", max_wait=wait())
    with Refused("DEADLINE_EXCEEDED"):
        client.router.Route(request, timeout=0.3)
    client.release(model, "r")
    assert line.answer("late").worker_id == "w0"
    assert client.booked(model) == 1


class InProcess(SmallDaemon):
    """A router and the calls that wait for it, in this process: to cancel at a given moment."""

    def __init__(self):
        super().__init__()
        self.places = Places(self._decide, self._give_back, 100)
        self.join("w0", capacity_sequences=1)
        self.route("r")

    def _decide(self, call):
        placed = self.router.route(call, self.now)
        placed.booking.waiting += 1
        return placed

    def _give_back(self, model, placed):
        self.router.answered(model, placed.booking, False, self.now)

    async def wait(self, request_id):
        call = RouteCall(MODEL, request_id)
        try:
            return self._decide(call)
        except ResourceExhaustedError as full:
            return await self.places.wait(call, "anyone", 0, 60, full)


async def test_a_cancellation_that_crosses_the_placement_leaves_no_booking():
    small = InProcess()
    crossed, other = (asyncio.create_task(small.wait(name)) for name in ("crossed", "other"))
    await asyncio.sleep(0)
    assert small.places.of(MODEL) == 2
    small.router.release(MODEL, "r", 0, small.now)
    small.places.free(MODEL)
    await asyncio.sleep(0)  # it is placed now, and has not heard of it
    assert small.model.bookings.live("crossed")
    crossed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await crossed
    assert small.booked() == {"w0": 0}
    small.places.free(MODEL)
    assert (await other).booking.worker_id == "w0"
    assert small.places.of(MODEL) == 0


def test_a_call_for_few_workers_holds_up_no_other(daemon, client, model):
    for worker in ("w0", "w1"):
        client.register(model, worker, **capacity(1))
        client.route(model, f"on-{worker}", pinned_worker=worker)
    line = Line(daemon, client, model)
    for number in range(40):
        line.join(f"picky-{number}", pinned_worker="w0", labels={"n": str(number)})
    line.join("choosy", exclude_workers=["w1", *(f"none-{n}" for n in range(9))])
    line.join("any")
    client.release(model, "on-w1")
    assert line.answer("any").worker_id == "w1"
    client.release(model, "on-w0")
    assert line.answer("picky-0").worker_id == "w0"


def test_whatever_makes_room_wakes(daemon, client, model):
    incarnation = client.register(model, "w0", **capacity(2))
    report = fleet_pb2.ReportLoadRequest(
        model=model, worker_id="w0", incarnation=incarnation, report_number=1, foreign_sequences=2
    )
    client.fleet.ReportLoad(report)
    line = Line(daemon, client, model)
    line.join("by report")
    report.report_number, report.foreign_sequences = 2, 1
    client.fleet.ReportLoad(report)
    assert line.answer("by report").worker_id == "w0"
    line.join("by worker")
    client.register(model, "w1", **capacity(1))
    assert line.answer("by worker").worker_id == "w1"
    line.join("by silence", pinned_worker="w0")  # its report counts for five seconds
    assert line.answer("by silence").worker_id == "w0"
    line.join("in vain")
    for worker in ("w0", "w1"):
        client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model=model, worker_id=worker))
    assert line.refusal("in vain").code == "UNAVAILABLE"


def test_a_lease_that_runs_out_wakes(daemon, client, model):
    client.register(model, "w0", **capacity(1))
    client.route(model, "r", lease_ttl=wait(1))
    line = Line(daemon, client, model)
    line.join("a")
    assert line.answer("a").worker_id == "w0"


def test_on_streams_others_are_answered_meanwhile(client, model, line):
    def messages():
        route = {"model": model, "max_wait": wait()}
        yield router_pb2.RouteStreamRequest(request_id="waits", **route)
        yield router_pb2.RouteStreamRequest(request_id="looks", model=model)
        eventually(lambda: answered == ["looks"], SOON)
        client.release(model, "r")
        eventually(lambda: len(answered) == 2, SOON)

    answered = []
    for answer in client.router.RouteStream(messages(), timeout=60):
        assert answer.HasField("placement") == (answer.request_id == "waits")
        answered.append(answer.request_id)
    assert answered == ["looks", "waits"]


def test_with_the_last_chunk_of_a_signature(client, model, line):
    def messages():
        message = router_pb2.StreamSignaturesRequest(
            model=model, request_id="a", last=True, counts=counts(drawn(0))
        )
        message.route.max_wait.CopyFrom(wait(0.4))
        yield message
        eventually(lambda: bool(refused), SOON)
        message.request_id = "b"
        message.route.max_wait.CopyFrom(wait())
        yield message
        client.release(model, "r")

    refused, placed = [], []
    for answer in client.router.StreamSignatures(messages(), timeout=60):
        if answer.HasField("status"):
            refused.append(read_status(answer.status))
        else:
            placed.append(answer.placement.worker_id)
    assert [r.code for r in refused] == ["RESOURCE_EXHAUSTED"]
    assert placed == ["w0"]


def test_the_python_client_waits_longer_than_its_timeout(daemon, client, model, line):
    with RouterClient(daemon.grpc, timeout=5) as router:
        with pytest.raises(errors.ResourceExhaustedError):
            router.route(model, "a", max_wait=0.2)
        release = threading.Timer(6, client.release, (model, "r"))
        release.start()
        assert router.route(model, "a", max_wait=30, priority=1).worker_id == "w0"
        release.join()


def test_a_flood_of_one_model_takes_no_room_of_another():
    with running_daemon("--max-waiting", "6") as daemon, Client(daemon.grpc) as client:
        flood, calm = Line(daemon, client, "flood"), Line(daemon, client, "calm")
        for model in ("flood", "calm"):
            client.register(model, "w0", **capacity(1))
            client.route(model, "r")
        for number in range(6):
            flood.join(f"f{number}")
        with Refused("RESOURCE_EXHAUSTED") as refused:
            client.route("flood", "one more", max_wait=wait())
        assert "6 calls wait" in refused.status.message
        assert 1 <= refused.status.retry_seconds <= 2
        urgent = router_pb2.RouteRequest(
            model="flood", request_id="urgent", max_wait=wait(), priority=10
        )
        waits = client.router.Route.future(urgent)
        assert flood.refusal("f5").code == "RESOURCE_EXHAUSTED"  # the last of them gives way
        for number in range(3):
            calm.join(f"c{number}")
        assert {flood.refusal(f"f{n}").code for n in (2, 3, 4)} == {"RESOURCE_EXHAUSTED"}
        assert not any(call.done() for call in (waits, flood.calls["f0"], flood.calls["f1"]))
        client.release("calm", "r")
        assert calm.answer("c0").worker_id == "w0"


def test_callers_take_turns(tmp_path):
    tokens = tmp_path / "tokens"
    names = {name: f"{name}-" + "0" * 16 for name in ("flood", "calm")}
    tokens.write_text(
        "".join(
            f'[[tokens]]\nname = "{name}"\ntoken = "{token}"\nroles = ["route", "admin"]\n'
            for name, token in names.items()
        )
    )
    as_ = {name: (("authorization", f"Bearer {token}"),) for name, token in names.items()}
    with running_daemon("--tokens", str(tokens)) as daemon, Client(daemon.grpc) as client:
        worker = fleet_pb2.RegisterWorkerRequest(
            model="m", worker_id="w0", url="http://w0", **capacity(1)
        )
        client.fleet.RegisterWorker(worker, metadata=as_["calm"])
        route = router_pb2.RouteRequest(model="m", request_id="r")
        client.router.Route(route, metadata=as_["calm"])
        line = Line(daemon, client, "m")
        for number in range(5):  # its urgency is its own affair
            line.join(f"f{number}", metadata=as_["flood"], priority=10)
        for number in range(2):
            line.join(f"c{number}", metadata=as_["calm"])
        last = "r"
        for served in range(7):
            release = router_pb2.ReleaseRequest(model="m", request_id=last)
            client.router.Release(release, metadata=as_["calm"])
            eventually(lambda n=served: len(line.order) > n, SOON)
            last = line.order[-1]
        assert line.order == ["f0", "c0", "f1", "c1", "f2", "f3", "f4"]


def test_a_stop_ends_the_wait():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m", "w0", **capacity(1))
        client.route("m", "r")
        line = Line(daemon, client, "m")
        line.join("a")
        daemon.process.terminate()
        assert line.calls["a"].exception(SOON).code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        )


@needs_redis
def test_a_release_at_another_replica_wakes(tmp_path, model):
    with running_redis(tmp_path) as redis, ExitStack() as stack:
        a, b = (
            stack.enter_context(
                Client(stack.enter_context(running_daemon("--state", redis.url)).grpc)
            )
            for _ in range(2)
        )
        a.register(model, "w0", **capacity(1))
        a.route(model, "r")
        eventually(lambda: booked(b, model) == 1, SOON)
        waits = [router_pb2.RouteRequest(model=model, request_id=x, max_wait=wait()) for x in "xy"]
        calls = [c.router.Route.future(w, timeout=60) for c, w in zip((a, b), waits, strict=True)]
        with pytest.raises(grpc.FutureTimeoutError):
            calls[1].result(1)
        b.release(model, "r")
        eventually(lambda: any(call.done() for call in calls), SOON)
        first = "x" if calls[0].done() else "y"  # the other waits on
        eventually(lambda: booked(a, model) == booked(b, model) == 1, SOON)
        b.release(model, first)
        assert [call.result(SOON).placement.worker_id for call in calls] == ["w0", "w0"]


def booked(client, model):
    try:
        return client.booked(model)
    except grpc.RpcError:  # the model is not known there yet
        return -1
