"""Signatures on one stream, with the real daemon in a process of its own."""

import signal
import threading
import time

import numpy as np
import pytest
from daemon import running_daemon
from eldr_client import RouterClient, RouterUnavailableError, WorkerSession
from eldr_client.errors import FailedPreconditionError, InvalidArgumentError
from wire import eventually

MODEL = "m"
COUNTS = np.array([[3, 1, 0, 0], [0, 0, 2, 2]])


@pytest.fixture
def daemon():
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture
def client(daemon):
    with RouterClient(daemon.grpc, top_k=2, timeout=5.0) as client:
        yield client


@pytest.fixture
def worker(daemon):
    """A decode worker that reports; whoever asks sees what is booked."""
    session = WorkerSession("w", MODEL, "http://w", geometry=(2, 4, 2), target=daemon.grpc)
    with session:
        eventually(lambda: session.incarnation)
        yield session


def test_the_last_chunk_brings_the_placement(client, worker):
    for name in ("a", "b"):  # chunks of several requests, in turn
        assert client.stream_signature(MODEL, name, COUNTS, last=False) is None
    for name in ("a", "b"):
        placement = client.stream_signature(
            MODEL, name, COUNTS, sequence=1, prompt_tokens=4, route={"explain": True}
        )
        assert (placement.worker_id, placement.coverage) == ("w", 1.0)
        assert placement.scores
        again = client.route(MODEL, name, explain=True)
        assert again.repeated
        assert again.lease_id == placement.lease_id
        assert client.release(MODEL, name).value == "RELEASED"


def test_an_earlier_chunk_brings_it_too(client, worker):
    early = client.stream_signature(MODEL, "r", COUNTS, last=False, route={})
    assert early.early
    assert client.stream_signature(MODEL, "r", COUNTS, sequence=1) is None
    final = client.route(MODEL, "r")
    assert (final.lease_id, final.early) == (early.lease_id, False)


def test_a_refusal_is_typed_and_ends_nothing(client, worker):
    client.stream_signature(MODEL, "r", COUNTS)
    stream = client._signatures._call
    with pytest.raises(InvalidArgumentError) as caught:
        client.stream_signature(MODEL, "", COUNTS)
    assert caught.value.field == "request_id"
    with pytest.raises(FailedPreconditionError):
        client.stream_signature(MODEL, "r", np.array([[2, 2]]))
    client.stream_signature(MODEL, "s", COUNTS)
    assert client._signatures._call is stream


def test_threads_take_turns(client, worker):
    found = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(
                client.stream_signature(MODEL, str(n), COUNTS, route={}).worker_id
            )
        )
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["w"] * 16


def test_a_killed_daemon_opens_the_breaker_until_it_is_back(client, daemon):
    client.stream_signature(MODEL, "before", COUNTS)
    daemon.process.kill()
    daemon.process.wait()
    with pytest.raises(RouterUnavailableError):
        client.stream_signature(MODEL, "down", COUNTS, timeout=0.5)
    begun = time.monotonic()
    for number in range(1000):
        with pytest.raises(RouterUnavailableError):
            client.stream_signature(MODEL, f"down-{number}", COUNTS)
    assert time.monotonic() - begun < 5.0  # the deadline of a single one
    with running_daemon("--listen", daemon.grpc):
        eventually(lambda: not client._conversation.router_is_down)
        client.stream_signature(MODEL, "after", COUNTS, last=False)
        assert client.register_signature(MODEL, "after", COUNTS, sequence=1).tokens_held == 4


def test_a_restart_between_two_messages_goes_unnoticed(client, daemon):
    client.stream_signature(MODEL, "before", COUNTS)
    daemon.process.terminate()
    daemon.process.wait()
    with running_daemon("--listen", daemon.grpc):
        client.stream_signature(MODEL, "after", COUNTS)


def test_a_booking_whose_answer_was_not_awaited_is_released(client, daemon, worker):
    client.stream_signature(MODEL, "before", COUNTS)
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RouterUnavailableError):
            client.stream_signature(MODEL, "hung", COUNTS, route={}, timeout=0.3)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    # The daemon may have read the message, and booked: the client takes that back.
    eventually(lambda: not client._conversation.has_chores)
    assert client.release(MODEL, "hung").value == "ALREADY_RELEASED"
    assert client.stream_signature(MODEL, "after", COUNTS, route={}).worker_id == "w"


def test_a_signal_handlers_message_has_an_answer_of_its_own(client, daemon, worker):
    client.stream_signature(MODEL, "before", COUNTS)
    placed = {}

    def place(name):
        placed[name] = client.stream_signature(MODEL, name, COUNTS, route={})

    before = signal.signal(signal.SIGUSR1, lambda *_: place("handler's"))
    main = threading.main_thread().ident
    daemon.process.send_signal(signal.SIGSTOP)
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()
    threading.Timer(0.8, lambda: daemon.process.send_signal(signal.SIGCONT)).start()
    try:
        place("interrupted")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert placed.keys() == {"handler's", "interrupted"}
    for name, placement in placed.items():
        assert placement.lease_id == client.route(MODEL, name).lease_id
