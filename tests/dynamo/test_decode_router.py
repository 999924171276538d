"""ELDR's router in NVIDIA Dynamo as PyPI has it: its runtime, discovery, frontend and planes."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from daemon import running_daemon
from dynamo_cluster import running_cluster, skip_without_packages
from dynamo_daemon import Daemon
from eldr.v1.router_pb2 import PlacementReason
from eldr_client import WorkerSession

from benchmarks.demos.demo_vllm.processes import free_port

pytestmark = pytest.mark.timeout(300)  # the packages are installed, once

SMALL, CAPITAL = "small letters", "CAPITAL LETTERS"


@pytest.fixture(scope="module")
def place():
    """Where the daemon is."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def daemon(place):
    return Daemon(place)


@pytest.fixture(scope="module")
def process(place):
    """Where the daemon's process is, which a test may replace."""
    with ExitStack() as processes:
        yield Process(place, processes)


class Process:
    def __init__(self, place, processes):
        self._place = place
        self._processes = processes
        self.start()

    def start(self):
        self._it = self._processes.enter_context(running_daemon("--listen", self._place))

    def kill(self):
        self._it.process.kill()
        self._it.process.wait()


@pytest.fixture(scope="module")
def started(place, tmp_path_factory):
    skip_without_packages()
    with running_cluster(tmp_path_factory.mktemp("dynamo"), place) as cluster:
        yield cluster


@pytest.fixture
def cluster(started, process, daemon):
    """With the daemon, which knows both workers by name and has a partition for them."""
    names = {started.worker_id(letter) for letter in "ab"}
    started.until(lambda: daemon.workers().keys() == names, "the daemon knows the workers", 30)
    daemon.fit()
    yield started
    started.until(lambda: not daemon.booked(), "all bookings end", 10)


def test_requests_decode_where_the_daemon_says(cluster, daemon):
    names = {cluster.worker_id(letter): letter for letter in "ab"}
    wrote = {}
    for prompt in (SMALL, CAPITAL) * 4:
        status, text, request = cluster.complete(prompt)
        assert status == 200, text
        decision = daemon.explain(request)
        assert text == names[decision.placement.worker_id] * 4
        assert decision.known_tokens == decision.prompt_tokens == len(prompt)
        wrote.setdefault(prompt, set()).add(text)
    assert sorted(wrote.values(), key=str) == [{"aaaa"}, {"bbbb"}]  # each kind has one worker


def test_the_decode_engine_gets_the_booking_in_the_place_of_the_counts(cluster):
    _, text, request = cluster.complete(SMALL)
    [told] = [each for each in cluster.said(text[0]) if each.get("request") == request]
    booking = told["params"].pop("eldr")
    assert told["params"] == {"do_remote_prefill": True, "remote_block_ids": [1]}
    assert booking.pop("lease_id")
    assert booking == {"request_id": request, "attempt": 0, "num_sequences": 1}


def test_many_at_once(cluster, daemon):
    with ThreadPoolExecutor(16) as threads:
        prompts = [SMALL, CAPITAL] * 32
        answers = list(threads.map(cluster.complete, prompts))
    assert [status for status, *_ in answers] == [200] * 64
    kinds = {(prompt, text) for prompt, (_, text, _) in zip(prompts, answers, strict=True)}
    assert len(kinds) == 2


def test_a_caller_that_goes_ends_its_booking(cluster, daemon):
    connection, answer = cluster.post(SMALL, max_tokens=1000, stream=True)
    said = json.loads(answer.readline().removeprefix(b"data: "))
    letter, request = said["choices"][0]["text"], said["id"].removeprefix("cmpl-")
    assert daemon.booked() == 1
    answer.close()
    connection.close()
    cluster.until(lambda: not daemon.booked(), "the booking ends", 10)
    [ended] = [each for each in cluster.said(letter) if each.get("ended") == request]
    assert ended["left"] > 0  # the worker was told


@pytest.mark.parametrize("first", ["!", "%", "?"], ids=["broken", "uneven", "none"])
def test_without_counts_that_serve_requests_go_by_load(cluster, daemon, first):
    status, text, request = cluster.complete(first + SMALL)
    assert status == 200, text
    reason = daemon.explain(request).placement.reason
    assert reason == PlacementReason.PLACEMENT_REASON_LEAST_LOADED_NO_SIGNATURE


def test_a_workers_errors_are_those_of_dynamo_without_the_router(cluster):
    status, said, _ = cluster.complete("#" + SMALL)
    assert (status, json.loads(said)["message"]) == (400, "this prompt is refused")
    assert cluster.complete("$" + SMALL)[0] == 500


def test_a_worker_that_dies_amid_an_answer(cluster, daemon):
    connection, answer = cluster.post(SMALL, max_tokens=1000, stream=True)
    said = json.loads(answer.readline().removeprefix(b"data: "))
    letter = said["choices"][0]["text"]
    assert daemon.booked() == 1
    cluster.kill(letter)
    rest = answer.read()
    connection.close()
    assert json.loads(rest.split(b"data: ")[-2])["error"]["code"] == 503
    cluster.until(lambda: not daemon.booked(), "the booking ends", 10)
    cluster.start_decode(letter)
    assert cluster.complete(SMALL)[0] == 200


def test_an_engine_that_registers_itself_is_known_by_its_address(cluster, place, daemon):
    port = free_port()
    cluster.start_decode("c", DYN_TCP_RPC_PORT=str(port))
    by_router = cluster.worker_id("c")
    cluster.until(lambda: by_router in daemon.workers(), "the router registers it", 30)
    url = f"http://127.0.0.1:{port}"
    with WorkerSession("engine-c", "tiny", url, target=place, time_to_live=5):
        cluster.until(lambda: "engine-c" in daemon.workers(), "it registers itself", 10)
        cluster.until(lambda: by_router not in daemon.workers(), "the router's is removed", 30)
        daemon.set_policy("round-robin")
        placed = {}
        for _ in range(6):
            _, text, name = cluster.complete(SMALL)
            placed[daemon.explain(name).placement.worker_id] = text
        assert placed["engine-c"] == "cccc"
        assert len(placed) == 3
    cluster.kill("c", signal.SIGTERM)
    cluster.until(lambda: len(daemon.workers()) == 2, "it is gone", 30)


def test_two_routers_are_one(cluster, place, daemon):
    def lives():
        return {name: worker.incarnation for name, worker in daemon.workers().items()}

    before = lives()
    cluster.start_router(place, name="second")
    what = "the second router serves"
    cluster.until(lambda: "decodes tiny by ELDR" in cluster.log("second").read_text(), what)
    assert {cluster.complete(SMALL)[0] for _ in range(8)} == {200}
    cluster.kill("second", signal.SIGTERM)
    assert {cluster.complete(SMALL)[0] for _ in range(8)} == {200}
    # A process that has just begun sees instances in the folder that died lately.
    cluster.until(lambda: lives() == before, "the workers are those of before", 30)


def test_wrong_options_name_themselves(started):
    for flags, expected in (
        (
            ["--endpoint", "pool.backend"],
            "NAMESPACE.COMPONENT.ENDPOINT, found 'pool.backend'",
        ),
        (["--fallback", "kv"], "round-robin"),
        (["--endpoint-types", "embeddings"], "expected chat or completions, found 'embeddings'"),
        (["--attempts", "0"], "expected 1 or more, found '0'"),
    ):
        started.start("wrong", "-m", "eldr_dynamo.cli", "--model-path", "x", *flags)
        assert started.children.pop("wrong").wait(60) == 2
        assert expected in started.log("wrong").read_text()


def test_requests_flow_without_the_daemon_and_are_placed_again_with_it(cluster, process, daemon):
    names = daemon.workers().keys()
    connection, answer = cluster.post(SMALL, max_tokens=100, stream=True)
    answer.readline()
    process.kill()
    assert answer.read().count(b"data: ") >= 99  # the one under way goes on
    connection.close()
    for _ in range(4):
        status, text, request = cluster.complete(SMALL)
        assert (status, len(text)) == (200, 4)
        [told] = [each for each in cluster.said(text[0]) if each.get("request") == request]
        assert "eldr" not in told["params"]  # Dynamo chose by itself
    process.start()
    cluster.until(lambda: daemon.workers().keys() == names, "the workers are known again", 30)
    # The router's client asks a daemon that was away again after a while.
    cluster.until(
        lambda: daemon.placed(cluster.complete(SMALL)[2]), "requests are placed again", 30
    )


def test_a_worker_that_dies_is_left_alone_and_its_successor_is_known(cluster, daemon):
    dead = cluster.worker_id("b")
    cluster.kill("b")
    for _ in range(4):
        for prompt in (SMALL, CAPITAL):
            assert cluster.complete(prompt)[:2] == (200, "aaaa")
    cluster.until(lambda: dead not in daemon.workers(), "the dead worker is removed", 60)
    cluster.start_decode("b")
    successor = cluster.worker_id("b")
    assert successor != dead
    cluster.until(lambda: successor in daemon.workers(), "its successor is registered", 30)
    texts = {cluster.complete(prompt)[1] for prompt in (SMALL, CAPITAL) * 2}
    assert "bbbb" in texts
