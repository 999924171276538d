"""From a recording to a simulation: a prefill and two decode engines record, `eldr` reads it."""

import json
import subprocess
from concurrent import futures

import pytest

pytestmark = pytest.mark.vllm(engines=2)

REQUESTS, TOKENS, IN_FLIGHT = 48, 40, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recording")


@pytest.fixture(scope="module")
def rig(model, folder, tmp_path_factory):
    from rig import running_apart

    settings = {"record": str(folder)}
    with running_apart(model, tmp_path_factory.mktemp("rig"), settings) as rig:
        yield rig


def test_from_record_to_simulation(rig, folder):
    from rig import decode_counts, prompt

    from eldr_service.lab.recordings import join, read_engine_files

    rig.await_workers()
    counted = {}
    with rig.client() as client:

        def complete(number):
            tokens = prompt(number, 60 + 5 * number)
            name = f"request-{number}"
            params, eldr = rig.prefill.prefill(tokens, {"request_id": name})
            placement = client.route("tiny", name, wait_for_signature=2.0)
            booking = {"request_id": name, "attempt": 0, "lease_id": placement.lease_id}
            decode = rig.at(placement.url)
            decode.complete(tokens, TOKENS + number % 7, {**params, "eldr": booking})
            counted[number] = decode_counts(eldr["counts"])[0]

        with futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(complete, range(REQUESTS)))
    through_a_proxy_that_does_not_know_eldr(rig)
    for engine in (rig.prefill, *rig.decodes):
        engine.terminate()

    files = read_engine_files(folder)
    assert (files.model, files.decode_engines, files.cautions) == ("tiny", 2, ())
    joined = join(files)
    by_prompt = dict(zip(joined.prompt_tokens.tolist(), joined.counts.tolist(), strict=True))
    assert {60 + 5 * n: counts.tolist() for n, counts in counted.items()}.items() <= (
        by_prompt.items()
    )
    outputs = dict(zip(joined.prompt_tokens.tolist(), joined.output_tokens.tolist(), strict=True))
    assert outputs[50] == 33
    assert all(outputs[60 + 5 * n] == TOKENS + n % 7 for n in range(REQUESTS))
    text = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"request-" not in text  # the ids are hashes

    document = simulate(folder, "qwen3-30b-a3b-h200")
    for figures in document["policies"].values():
        assert figures["requests"] > 100
        assert 4 <= figures["active_experts"] <= 32
    # The steps of a model this small may or may not tell an expert's cost; either is said.
    steps = files["steps.sizes"]
    assert (steps[:, 0] == steps[:, 1]).sum() > REQUESTS
    assert (steps[:, 3] >= 3 * 4).all()  # 3 layers, top-4


def through_a_proxy_that_does_not_know_eldr(rig):
    """It sends both engines the request's id, for vLLM."""
    from rig import prompt

    tokens, kv = prompt(99, 50), {"do_remote_decode": True, "do_remote_prefill": False}
    answer = rig.prefill.complete(tokens, 1, kv, request_id="foreign")
    params = answer["kv_transfer_params"]
    params.pop("eldr")
    rig.decode.complete(tokens, 33, params, request_id="foreign")


def simulate(folder, cost):
    from rig import DAEMON_PYTHON

    options = ["--activations", folder, "--arrivals", folder, "--cost", cost]
    options += ["--workers", "4", "--duration", "40", "--jobs", "1", "--json"]
    code = "from eldr_service.cli import main; main()"
    done = subprocess.run(
        [DAEMON_PYTHON, "-c", code, "simulate", *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stderr)  # what -s shows
    return json.loads(done.stdout)
