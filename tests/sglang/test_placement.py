"""SGLang's prefill and decode apart: a decode is placed after its prefill, by its experts."""

import base64
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, partition_pb2, partition_pb2_grpc
from eldr_client import Counts, RouterClient
from sglang_engines import EXPERTS, LAYERS, PYTHON, TOP_K, Engine, free_port, post, running

from eldr_service.lab.recordings.imported import import_answers

MODEL = "tiny"
KINDS = {"letters": "abcdefgh ", "figures": "0123456789"}
CHUNKED = ("--chunked-prefill-size", "128")
# A prefill server's overlapped schedule records CUDA events, on a CPU too.
NIXL = ("--disaggregation-transfer-backend", "nixl", "--disable-overlap-schedule", *CHUNKED)
PREFILL = ("--disaggregation-mode", "prefill", "--optimistic-prefill-attempts", "1", *NIXL)
# By default a decode server keeps 10 GB of host memory free.
BACKUP = ("--disaggregation-decode-retraction-backup", "cpu_tensor")
DECODE = ("--disaggregation-mode", "decode", *BACKUP, *NIXL)


@pytest.fixture(scope="module")
def fleet(model, tmp_path_factory):
    """A daemon, a prefill server, and two decode servers that are the daemon's workers."""
    folder = tmp_path_factory.mktemp("fleet")
    with running_daemon() as daemon:
        ours = {"ELDR_ROUTER": daemon.grpc, "ELDR_MODEL": MODEL}
        with running(model, folder, PREFILL, DECODE, DECODE, env=ours) as engines:
            for number, engine in enumerate(engines[1:]):
                of = ("--model", MODEL, "--geometry", f"{LAYERS}x{EXPERTS}x{TOP_K}")
                eldr(daemon, "workers", "add", f"decode-{number}", "--url", engine.url, *of)
            yield daemon, engines


@pytest.fixture(scope="module")
def front(fleet):
    daemon, engines = fleet
    with proxy(daemon.grpc, engines) as url:
        yield url


@pytest.fixture(scope="module")
def fitted(fleet, front):
    """Two slots, fitted to prompts of two kinds that passed through; the most similar is taken."""
    daemon, _ = fleet
    for kind in KINDS:
        for number in range(4):
            post(f"{front}/generate", asked(prompt(kind, number)))
    with grpc.insecure_channel(daemon.grpc) as channel:
        partition_pb2_grpc.PartitionServiceStub(channel).FitPartition(
            partition_pb2.FitPartitionRequest(model=MODEL, num_slots=2, activate=True)
        )
    eldr(daemon, "policy", "set", "locality", "--model", MODEL)


def eldr(daemon, *words):
    command = [sys.executable, "-c", "from eldr_service.cli import main; main()"]
    subprocess.run([*command, "--server", daemon.grpc, *words], check=True)


@contextmanager
def proxy(router, engines):
    prefill, *decodes = engines
    port = free_port()
    command = [PYTHON, "-m", "eldr_sglang.proxy", "--listen", f"127.0.0.1:{port}"]
    command += ["--router", router, "--route-timeout", "5", "--model", MODEL]
    command += ["--prefill", f"{prefill.url},{prefill.bootstrap_port}"]
    command += [word for engine in decodes for word in ("--decode", engine.url)]
    process = subprocess.Popen(command)
    try:
        while True:
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def prompt(kind, number):
    return "".join(random.Random(number).choices(KINDS[kind], k=150))  # two chunks


def asked(text, **fields):
    sampling = {"temperature": 0, "max_new_tokens": 5, "ignore_eos": True}
    return {"text": text, "sampling_params": sampling, **fields}


def placed(url, body, path="/generate"):
    """Where the proxy had a request decoded, and why."""
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
        return answer.headers["x-eldr-worker"], answer.headers["x-eldr-reason"]


def test_the_daemon_has_the_experts_before_a_decode_server_is_asked(fleet, fitted, tmp_path):
    daemon, (prefill, decode, _) = fleet
    body = asked(prompt("letters", 9), rid="late", return_routed_experts=True)
    body |= {
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": prefill.bootstrap_port,
        "bootstrap_room": random.randrange(1 << 62),
    }
    with ThreadPoolExecutor(1) as pool, RouterClient(daemon.grpc, timeout=5) as client:
        ahead = pool.submit(prefill.post, "/generate", body)
        dry = {"dry_run": True, "wait_for_signature": 10}
        seen = client.route(MODEL, "late", **dry)
        assert not ahead.done()
        decoded = decode.post("/generate", body)
        prefilled = ahead.result()
        experts = picks(prefilled)
        counts = np.stack([np.bincount(layer.ravel(), minlength=EXPERTS) for layer in experts])
        said = client.route(MODEL, "said", Counts(counts, TOP_K), dry_run=True)
    # What the plugin sent is what SGLang returns in the end: the same prompt's, all of it.
    assert [one.similarity for one in seen.scores] == [one.similarity for one in said.scores]
    assert seen.scores[0].similarity != seen.scores[1].similarity
    assert decoded["output_ids"][:1] == prefilled["output_ids"]

    # A decode server returns other tokens' experts for the prompt; the import takes the prefill's.
    assert not np.array_equal(picks(decoded)[:, :150], experts)
    logged = tmp_path / "answers.jsonl"
    logged.write_text("".join(json.dumps(one) + "\n" for one in (decoded, prefilled)), "utf-8")
    found = import_answers([logged], EXPERTS, (LAYERS, TOP_K)).recording
    np.testing.assert_array_equal(found.expert_ids[:150].swapaxes(0, 1), experts)
    np.testing.assert_array_equal(found.expert_ids[150:].swapaxes(0, 1), picks(decoded)[:, 150:])


def picks(answer):
    """The experts of an answer, [layers, tokens, top_k]."""
    raw = base64.b64decode(answer["meta_info"]["routed_experts"])
    return np.frombuffer(raw, "<i4").reshape(-1, LAYERS, TOP_K).swapaxes(0, 1)


def test_each_kind_has_its_decode_server(front, fitted):
    where = {
        kind: {placed(front, asked(prompt(kind, number))) for number in range(10, 14)}
        for kind in KINDS
    }
    (letters, reason), (figures, _) = (next(iter(where[kind])) for kind in KINDS)
    assert all(len(found) == 1 for found in where.values())
    assert reason == "POLICY"
    assert {letters, figures} == {"decode-0", "decode-1"}


def test_openai_paths_and_streams(front, fitted):
    body = {"model": MODEL, "prompt": prompt("letters", 20), "max_tokens": 4}
    worker, _ = placed(front, body, "/v1/completions")
    assert (worker, "POLICY") == placed(front, body | {"stream": True}, "/v1/completions")


def test_a_caller_that_goes_ends_its_booking(fleet, front, fitted):
    daemon, _ = fleet
    body = asked(prompt("letters", 30), stream=True)
    body["sampling_params"]["max_new_tokens"] = 1500  # half a minute and more
    request = urllib.request.Request(
        f"{front}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.readline()
        assert in_flight(daemon) == 1
    until = time.monotonic() + 10
    while in_flight(daemon) and time.monotonic() < until:
        time.sleep(0.2)
    assert in_flight(daemon) == 0


def in_flight(daemon):
    with grpc.insecure_channel(daemon.grpc) as channel:
        listed = fleet_pb2_grpc.FleetServiceStub(channel).ListWorkers(
            fleet_pb2.ListWorkersRequest(model=MODEL)
        )
    return sum(worker.booked_sequences for worker in listed.workers)


def test_what_is_refused(front):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        placed(front, asked(["one", "two"]))
    with pytest.raises(urllib.error.HTTPError, match="400"):  # by the prefill server
        placed(front, asked("x" * 3000))


def test_without_a_daemon_decodes_go_in_turn(fleet):
    _, engines = fleet
    down = Engine(f"http://127.0.0.1:{free_port()}", Path(), 0)  # another is asked instead
    with proxy(f"127.0.0.1:{free_port()}", [*engines, down]) as url:
        found = [placed(url, asked(prompt("letters", number))) for number in range(4)]
    assert {reason for _, reason in found} == {"CLIENT_FALLBACK"}
    assert {worker for worker, _ in found} == {engine.url for engine in engines[1:]}
