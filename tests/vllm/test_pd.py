"""A prefill and a decode engine, apart, over NIXL on loopback, with the daemon between them."""

import contextlib
import http.client
import json
import signal
import time

import grpc
import pytest

pytestmark = pytest.mark.vllm(engines=2)

MODEL = "tiny"


@pytest.fixture(scope="module")
def rig(model, tmp_path_factory):
    from rig import Daemon, Engine

    directory = tmp_path_factory.mktemp("rig")
    with contextlib.ExitStack() as ending:
        daemon = Daemon(directory)
        rig = Rig(directory, daemon)
        ending.callback(lambda: rig.daemon.kill())
        eldr = {"router": daemon.target, "group": "here", "timeout": 5.0}  # on a busy machine
        rig.prefill = Engine("prefill", model, directory, "kv_producer", eldr)
        ending.callback(rig.prefill.kill)
        rig.decode = Engine(
            "decode", model, directory, "kv_consumer", eldr, **{"shutdown-timeout": 20}
        )
        ending.callback(rig.decode.kill)
        rig.prefill.wait()
        rig.decode.wait()
        rig.warm_up()
        yield rig


class Rig:
    def __init__(self, directory, daemon):
        self.directory, self.daemon = directory, daemon
        self.prefill = self.decode = None

    def workers(self):
        from eldr.v1.fleet_pb2 import ListWorkersRequest, WorkerState
        from eldr.v1.fleet_pb2_grpc import FleetServiceStub

        with grpc.insecure_channel(self.daemon.target) as channel:
            workers = FleetServiceStub(channel).ListWorkers(ListWorkersRequest()).workers
        ready = WorkerState.WORKER_STATE_READY
        return {worker.url: worker for worker in workers if worker.state == ready}

    def await_workers(self):
        from rig import wait

        wait(lambda: {self.prefill.url, self.decode.url} <= self.workers().keys(), 20)

    def client(self):
        from eldr_client import RouterClient

        return RouterClient(self.daemon.target, timeout=5.0)

    def warm_up(self):
        """The first transfer of a pair has a deadline of 5 s, which a busy machine can miss."""
        for attempt in range(5):
            params, _ = self.prefill.prefill(prompt(attempt))
            with contextlib.suppress(AssertionError):
                self.decode.complete(prompt(attempt), 2, params)
                return
        raise AssertionError(self.decode.log.read_text()[-4000:])


def prompt(seed, tokens=300):
    """Longer than a chunk (256 tokens)."""
    return [(seed * 17 + index * 7 + index // 9) % 250 + 1 for index in range(tokens)]


def ids(answer):
    return answer["choices"][0]["token_ids"]


def test_both_are_registered(rig):
    rig.await_workers()
    workers = rig.workers()
    prefill, decode = workers[rig.prefill.url], workers[rig.decode.url]
    assert (prefill.role, decode.role) == (2, 1)
    assert decode.worker_id == f"127.0.0.1:{rig.decode.port}"
    assert decode.group == prefill.group == "here"
    assert decode.capacity.sequences == 16


def test_outputs_are_those_of_one_engine(rig):
    from rig import decode_counts, wait

    rig.await_workers()
    with rig.client() as client:
        for seed in range(10, 20):
            name = f"equal-{seed}"
            tokens = prompt(seed)
            whole = rig.prefill.complete(tokens, 32)
            params, eldr = rig.prefill.prefill(tokens, {"request_id": name, "epoch": 1})
            counts, message = decode_counts(eldr["counts"])
            assert (eldr["model"], eldr["request_id"]) == (MODEL, name)
            assert (message.num_tokens, message.unknown_tokens) == (len(tokens), 0)
            assert (counts.sum(axis=1) == len(tokens) * message.top_k).all()
            # The daemon has it already, by the request's id; the same as what came inline.
            worker = f"127.0.0.1:{rig.prefill.port}"
            placement = client.route(MODEL, name, prefill_worker=worker, wait_for_signature=2.0)
            assert placement.coverage == 1.0
            assert placement.url == rig.decode.url
            inline = client.route(MODEL, name + "-i", message, dry_run=True)
            assert inline.coverage == 1.0
            identity = {"request_id": name, "attempt": 0, "lease_id": placement.lease_id}
            apart = rig.decode.complete(tokens, 32, {**params, "eldr": identity})
            assert ids(apart) == ids(whole)
            # And the decode engine has released it, by itself.
            wait(lambda: rig.workers()[rig.decode.url].booked_sequences == 0, 5)
            assert client.release(MODEL, name).value == "ALREADY_RELEASED"


def test_the_answer_carries_the_placement(rig):
    rig.await_workers()
    found = 0
    with rig.client() as client:
        for seed in range(30, 36):
            name = f"placed-{seed}"
            tokens = prompt(seed, 900)
            params, eldr = rig.prefill.prefill(tokens, {"request_id": name, "place": "daemon"})
            again = client.route(MODEL, name, prefill_worker=f"127.0.0.1:{rig.prefill.port}")
            if placement := eldr.get("placement"):
                found += 1
                assert placement["url"] == rig.decode.url
                assert placement["lease_id"] == again.lease_id
                assert again.repeated
            rig.decode.complete(tokens, 1, params)  # so that the prefill engine may let go
            client.release(MODEL, name)
    assert found


def test_reports_and_cancellation(rig):
    from rig import wait

    rig.await_workers()
    tokens = prompt(40)
    params, _ = rig.prefill.prefill(tokens, {"request_id": "left"})
    with rig.client() as client:
        placement = client.route(MODEL, "left", wait_for_signature=2.0)
        identity = {"request_id": "left", "attempt": 0, "lease_id": placement.lease_id}
        body = {
            "model": MODEL,
            "prompt": tokens,
            "max_tokens": 700,
            "ignore_eos": True,
            "stream": True,
            "kv_transfer_params": {**params, "eldr": identity},
        }
        connection = http.client.HTTPConnection("127.0.0.1", rig.decode.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data:")
        worker = wait(lambda: (w := rig.workers()[rig.decode.url]).active_experts and w, 10)
        assert worker.booked_sequences == 1
        assert worker.foreign_sequences == 0
        assert worker.batch_size == 1.0
        assert worker.active_experts == 4.0  # one token's top-4 in every layer
        assert worker.step_time.ToNanoseconds() > 0
        connection.sock.shutdown(2)
        connection.close()
        wait(lambda: rig.workers()[rig.decode.url].booked_sequences == 0, 5)
        assert client.release(MODEL, "left").value == "ALREADY_RELEASED"


def test_requests_go_on_without_the_daemon(rig):
    from rig import Daemon, wait

    rig.await_workers()
    port = int(rig.daemon.target.rsplit(":", 1)[1])
    rig.daemon.kill()
    longest = 0.0
    for seed in range(50, 58):
        tokens = prompt(seed)
        params, eldr = rig.prefill.prefill(tokens, {"request_id": f"alone-{seed}"})
        assert "counts" in eldr
        begun = time.monotonic()
        rig.decode.complete(tokens, 4, {**params, "eldr": {"request_id": "x", "lease_id": "y"}})
        longest = max(longest, time.monotonic() - begun)
    rig.daemon = Daemon(rig.directory, port)
    begun = time.monotonic()
    rig.await_workers()
    assert time.monotonic() - begun < 5
    params, _ = rig.prefill.prefill(prompt(60), {"request_id": "back"})
    with rig.client() as client:
        wait(lambda: client.route(MODEL, "back", dry_run=True).coverage == 1.0, 5)
    rig.decode.complete(prompt(60), 1, params)


def test_goodbye(rig):
    from rig import wait

    rig.await_workers()
    rig.decode._popen.send_signal(signal.SIGTERM)
    wait(lambda: rig.decode.url not in rig.workers(), 12)  # its time to live is 15 s
