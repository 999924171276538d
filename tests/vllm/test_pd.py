"""A prefill and two decode engines, apart, over NIXL on loopback, with the daemon between them."""

import http.client
import itertools
import json
import signal
import time

import pytest
from aiohttp import ClientSession
from eldr_vllm.prefix_hashes import BLOCK_TOKENS, prefix_hashes, token_blocks
from eldr_vllm.proxy.app import Proxy
from eldr_vllm.proxy.settings import Settings
from other_router import VLLM_ROUTER, running_router
from scripted_engine import serve

pytestmark = pytest.mark.vllm(engines=2)

MODEL = "tiny"


@pytest.fixture(scope="module")
def rig(model, tmp_path_factory):
    from rig import running_apart

    with running_apart(model, tmp_path_factory.mktemp("rig")) as rig:
        yield rig


def test_all_are_registered(rig):
    rig.await_workers()
    workers = rig.workers()
    prefill, decode = workers[rig.prefill.url], workers[rig.decode.url]
    assert (prefill.role, decode.role) == (2, 1)
    assert decode.worker_id == f"127.0.0.1:{rig.decode.port}"
    assert decode.group == prefill.group == "here"
    assert decode.capacity.sequences == 16


def test_outputs_are_those_of_one_engine_under_every_policy(rig):
    from rig import decode_counts, ids, prompt, wait

    rig.await_workers()
    prompts = [prompt(seed) for seed in range(10, 16)]
    whole, counted = [], []
    with rig.client() as client:
        for index, tokens in enumerate(prompts):
            name = f"whole-{index}"
            whole.append(ids(rig.prefill.complete(tokens, 24)))
            params, eldr = rig.prefill.prefill(tokens, {"request_id": name, "epoch": 1})
            counts, message = decode_counts(eldr["counts"])
            assert (eldr["model"], eldr["request_id"]) == (MODEL, name)
            assert (message.num_tokens, message.unknown_tokens) == (len(tokens), 0)
            assert (counts.sum(axis=1) == len(tokens) * message.top_k).all()
            # The daemon has it already, by the request's id; the same as what came inline.
            placement = client.route(MODEL, name, wait_for_signature=2.0, dry_run=True)
            assert placement.coverage == 1.0
            assert client.route(MODEL, name + "-i", message, dry_run=True).coverage == 1.0
            rig.decode.complete(tokens, 1, params)  # so that the prefill engine may let go
            counted.append(message)
        rig.fit(counted)
        used = set()
        for policy in rig.policies():
            rig.set_policy(policy)
            for index, tokens in enumerate(prompts):
                name = f"{policy}-{index}"
                answer, placement = rig.complete(client, name, tokens, 24)
                assert ids(answer) == whole[index], policy
                assert placement.policy == policy
                assert placement.reason in ("POLICY", "LOCALITY_BAND")
                used.add((policy, placement.url))
                # And the decode engine has released it, by itself.
                wait(lambda: not rig.booked(), 30)
                assert client.release(MODEL, name).value == "ALREADY_RELEASED"
        rig.set_policy("locality-band")
    assert {("round-robin", engine.url) for engine in rig.decodes} <= used
    print(f"{len(prompts)} completions equal under each of {rig.policies()}")  # what -s shows


def test_outputs_of_several_in_flight(rig):
    from rig import equal_shares

    rig.await_workers()
    with rig.client() as client:
        apart, twice = equal_shares(rig, client, count=16, max_tokens=24, in_flight=8)
    print(f"8 in flight, float32: equal apart and whole {apart:.2f}, whole twice {twice:.2f}")


def test_the_answer_carries_the_placement(rig):
    from rig import prompt, wait

    rig.await_workers()
    by = f"127.0.0.1:{rig.prefill.port}"
    with rig.client() as client:
        for seed in range(30, 60):
            name = f"placed-{seed}"
            tokens = prompt(seed, 900)
            params, eldr = rig.prefill.prefill(tokens, {"request_id": name, "place": "daemon"})
            again = client.route(MODEL, name, prefill_worker=by)
            if placement := eldr.get("placement"):
                assert rig.at(placement["url"])
                assert placement["lease_id"] == again.lease_id
                assert again.repeated
                # It was asked for before the last chunk, which the booking has taken in since.
                assert placement["early"]
                wait(lambda name=name: not client.route(MODEL, name, prefill_worker=by).early, 30)
                next_turn = client.route(
                    MODEL,
                    f"{name}-next",
                    dry_run=True,
                    prefix_hashes=prefix_hashes(MODEL, "", token_blocks(tokens)),
                    prefix_block_tokens=BLOCK_TOKENS,
                )
                cached = {score.worker_id: score.cached_tokens for score in next_turn.scores}
                assert cached.pop(placement["worker_id"]) == 896
                assert not any(cached.values())
            rig.decode.complete(tokens, 1, params)  # so that the prefill engine may let go
            client.release(MODEL, name)
            if placement:
                break
    assert placement, "on a busy machine it may come too late for an answer, but not for thirty"


async def test_vllm_router_decodes_through_the_proxy(rig, tmp_path):
    from rig import prompt, wait

    rig.await_workers()
    prompts = [prompt(seed) for seed in range(40, 44)]
    whole = rig.fit_on(prompts, 16)
    settings = Settings(router=rig.daemon.target, accept_prefilled=True, route_timeout=5.0)
    runner, proxy = await serve(Proxy(settings).app())
    flags = ["--vllm-pd-disaggregation", "--kv-connector", "nixl"]
    flags += ["--prefill", rig.prefill.url, "--decode", proxy]
    async with (
        ClientSession() as session,
        running_router(VLLM_ROUTER, session, tmp_path / "log", *flags) as url,
    ):
        for tokens, expected in zip(prompts, whole, strict=True):
            body = {"model": MODEL, "prompt": tokens, "max_tokens": 16, "temperature": 0}
            body["ignore_eos"] = True
            async with session.post(url + "/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                assert (await answer.json())["choices"][0]["text"] == expected
        async with session.get(proxy + "/metrics") as page:
            placed = await page.text()
    await runner.cleanup()
    assert f'eldr_proxy_placements_total{{reason="LOCALITY_BAND"}} {len(prompts)}.0' in placed
    wait(lambda: not rig.booked(), 30)


def test_reports_and_cancellation(rig):
    from rig import prompt, wait

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
        port = rig.at(placement.url).port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data:")

        def alone():  # in a report on this request's steps, and no earlier one's
            worker = rig.workers()[placement.url]
            return worker.batch_size == 1.0 and not worker.foreign_sequences and worker

        worker = wait(alone, 30)
        assert worker.booked_sequences == 1
        assert worker.active_experts == 4.0  # one token's top-4 in every layer
        assert worker.step_time.ToNanoseconds() > 0
        connection.sock.shutdown(2)
        connection.close()
        wait(lambda: not rig.booked(), 30)
        assert client.release(MODEL, "left").value == "ALREADY_RELEASED"


def test_the_engines_metrics_tell_of_the_shim(rig):
    from rig import prompt

    rig.await_workers()
    before, by = rig.prefill.metrics(), f"127.0.0.1:{rig.prefill.port}"
    with rig.client() as client:
        for seed in range(3):
            name = f"counted-{seed}"
            tokens = prompt(60 + seed, 200)
            params, _ = rig.prefill.prefill(tokens, {"request_id": name, "place": "daemon"})
            placement = client.route(MODEL, name, prefill_worker=by)
            rig.at(placement.url).complete(tokens, 2, params)
            client.release(MODEL, name)
    rig.prefill.complete(prompt(63), 1)  # what a step's end brings is told with the next one
    after, decodes = rig.prefill.metrics(), [engine.metrics() for engine in rig.decodes]

    def more(*key):
        return after[key] - before[key]

    for engine in (after, *decodes):
        states = {key[1]: value for key, value in engine.items() if key[0] == "eldr_vllm_capture"}
        assert states == {"PROBING": 0, "CAPTURING": 1, "STOPPED": 0}
        assert engine["eldr_vllm_captured_layers",] == 3
    assert more("eldr_vllm_prompt_tokens_total", "known") >= 600
    assert more("eldr_vllm_prompt_tokens_total", "unknown") == 0
    assert more("eldr_vllm_signatures_total", "sent") >= 3
    assert more("eldr_vllm_placements_total", "received") == 3
    # And NIXL's are there, of the engines that fetched the KV.
    assert sum(engine["vllm:nixl_bytes_transferred_sum",] for engine in decodes) > 0


def test_requests_go_on_without_the_daemon(rig):
    from rig import Daemon, prompt, wait

    rig.await_workers()
    failed = "eldr_vllm_signatures_total", "failed"
    before = rig.prefill.metrics()[failed]
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
    assert rig.prefill.metrics()[failed] > before
    rig.daemon = Daemon(rig.directory, port)
    begun = time.monotonic()
    rig.await_workers()
    assert time.monotonic() - begun < 5
    numbers = itertools.count(60)
    with rig.client() as client:

        def known_again():  # a signature sent while the daemon is still held to be away is dropped
            number = next(numbers)
            params, _ = rig.prefill.prefill(prompt(number), {"request_id": f"back-{number}"})
            rig.decode.complete(prompt(number), 1, params)
            return client.route(MODEL, f"back-{number}", dry_run=True).coverage == 1.0

        wait(known_again, 30)


def test_goodbye(rig):
    from rig import wait

    rig.await_workers()
    rig.decode._popen.send_signal(signal.SIGTERM)
    wait(lambda: rig.decode.url not in rig.workers(), 12)  # its time to live is 15 s
