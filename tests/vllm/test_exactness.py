"""The counts in the answers against what the forward passes computed, on one engine."""

import collections
import json
import os
import random

import numpy as np
import pytest
from eldr_vllm.recording.tables import request_key
from watched_engine import BLOCK

pytestmark = pytest.mark.vllm

# Options of the engine, to try another layout: '{"tensor_parallel_size": 2}'
MORE = json.loads(os.environ.get("ELDR_TEST_ENGINE", "{}"))
REQUESTS = 520
ANSWERS = 120


@pytest.fixture(scope="module")
def engine(model, router, tmp_path_factory):
    from watched_engine import running_engine

    inner = {
        "kv_connector": "OracleConnector",
        "kv_connector_module_path": "oracle_connector",
        "kv_connector_extra_config": {},
    }
    options = {
        "max_num_seqs": 16,
        "max_num_batched_tokens": 128,
        "num_gpu_blocks_override": 30,  # 960 tokens: evicts, and preempts
        **MORE,
    }
    folder = tmp_path_factory.mktemp("engine")
    with running_engine(model, router, folder, inner, recorded=True, **options) as engine:
        yield engine


def random_prompts(rng, count):
    """Prompts that share prefixes of any length, most of them longer than a chunk."""
    bases = [[rng.randrange(1, 250) for _ in range(rng.randrange(40, 330))] for _ in range(12)]
    return [
        base[: rng.randrange(len(base) // 2, len(base) + 1)]
        + [rng.randrange(1, 250) for _ in range(rng.randrange(1, 60))]
        for base in (rng.choice(bases) for _ in range(count))
    ]


def test_counts_are_those_of_the_forward_passes(engine):
    rng = random.Random(7)
    prompts = random_prompts(rng, REQUESTS)
    pairs = engine.run(prompts, [rng.choice((1, 1, 1, 80)) for _ in prompts])
    wrong = [
        output.request_id
        for prompt, (ours, oracle, output) in zip(prompts, pairs, strict=True)
        if ours is None or ours != oracle or ours[1:] != (len(prompt), 0)
    ]
    assert not wrong
    cached = sum(output.num_cached_tokens for *_, output in pairs)
    epochs = collections.Counter(output.kv_transfer_params["eldr"]["epoch"] for *_, output in pairs)
    preempted = engine.metric("vllm:num_preemptions")
    print(  # what -s shows
        f"{len(prompts)} requests exact: {sum(map(len, prompts))} prompt tokens, {cached} of them "
        f"cached, {preempted} preemptions, requests by epoch {dict(epochs)}"
    )
    assert cached
    assert preempted
    recorded = engine.recorded("signatures.request", REQUESTS)
    assert recorded.cautions == ()
    signatures = dict(
        zip(
            recorded["signatures.request"].tolist(),
            recorded["signatures.counts"].tolist(),
            strict=True,
        )
    )
    assert len(signatures) == REQUESTS
    assert all(signatures[request_key(o.request_id)] == oracle[0] for _, oracle, o in pairs)


def test_counts_with_and_without_the_prefix_cache(engine):
    prompts = random_prompts(random.Random(11), 120)
    cached, cold = (
        engine.run(prompts, [1] * len(prompts), salts=salts)
        for salts in ((), [f"alone-{index}" for index in range(len(prompts))])
    )
    assert all(ours == oracle for ours, oracle, _ in cached + cold)
    reused = [sum(output.num_cached_tokens for *_, output in pairs) for pairs in (cached, cold)]
    assert reused[0]
    # Two runs batch differently, and a sum in another order can end in another expert.
    equal = sum(a[0] == b[0] for (a, *_), (b, *_) in zip(cached, cold, strict=True))
    print(f"{equal} of {len(prompts)} counts equal; tokens cached {reused}")  # what -s shows


def test_releases_carry_the_counts_of_the_answers(engine, router):
    from rig import read_counts
    from tiny_model import EXPERTS, MOE_LAYERS
    from wire import eventually

    rng = random.Random(10)
    lengths = [rng.choice((1, 2, 40, 90)) for _ in range(ANSWERS)]
    before = engine.metric("vllm:num_preemptions")
    engine.answer(random_prompts(rng, ANSWERS), lengths)
    eventually(lambda: len(router.requests("Release")) >= ANSWERS)
    releases = {release.request_id: release for release in router.requests("Release")}
    assert len(releases) == len(router.requests("Release")) == ANSWERS
    oracle, wrong, tokens = engine.answers(), [], 0
    for index, length in enumerate(lengths):
        release = releases[f"r{index}"]
        computed = oracle.get(f"r{index}", {})
        counts = np.zeros((MOE_LAYERS, EXPERTS), np.int64)
        for experts in computed.values():
            np.add.at(counts, (np.arange(MOE_LAYERS)[:, None], experts), 1)
        # A sequence's last token passes no layer, but for asynchronous scheduling that goes on.
        expected = 2 * (length - 1)
        ours, message = read_counts(release.decode_counts)
        if (
            release.output_tokens != 2 * length
            or message.num_tokens != len(computed)
            or not (expected == len(computed) or (MORE and expected <= len(computed)))
            or (computed and not np.array_equal(ours, counts))
        ):
            wrong.append(release.request_id)
        tokens += message.num_tokens
    assert not wrong
    preempted = engine.metric("vllm:num_preemptions") - before
    print(f"{ANSWERS} answers exact: {tokens} tokens, {preempted} preemptions")  # what -s shows
    assert preempted
    assert recorded_answers(engine) == {
        request_key(booking): sorted(in_order(computed)) for booking, computed in oracle.items()
    }


def in_order(computed):
    """The oracle's tokens of each sequence of a booking, by position."""
    sequences = {}
    for (request, position), experts in computed.items():
        sequences.setdefault(request, {})[position] = np.sort(experts).tolist()
    return [[tokens[position] for position in sorted(tokens)] for tokens in sequences.values()]


def recorded_answers(engine):
    """Tokens of each sequence of a request, as recorded, where there are any."""
    recorded = engine.recorded("decodes.request", 2 * ANSWERS)
    tokens = {}
    for sequence, experts in zip(
        recorded["tokens.sequence"].tolist(), recorded["tokens.experts"], strict=True
    ):
        tokens.setdefault(sequence, []).append(np.sort(experts).tolist())
    found = {}
    rows = (recorded[f"decodes.{name}"].tolist() for name in ("request", "sequence", "tokens"))
    for key, sequence, (_, output, count) in zip(*rows, strict=True):
        assert len(tokens.get(sequence, [])) == count <= output
        if sequence in tokens:
            found.setdefault(key, []).append(tokens[sequence])
    return {key: sorted(sequences) for key, sequences in found.items()}


def test_tokens_from_outside_are_unknown(engine):
    rng = random.Random(8)
    prompts = random_prompts(rng, 40)
    filled = engine.run(prompts, [1] * len(prompts), fill=4 * BLOCK)
    assert all(ours == oracle for ours, oracle, _ in filled)
    assert any(ours[2] for ours, _, _ in filled)
    # They stay so for those that find them in the prefix cache, until computed by ourselves.
    shared = engine.run(prompts, [1] * len(prompts))
    assert all(ours == oracle for ours, oracle, _ in shared)


def test_blocks_that_come_back_from_outside_are_known_again(engine):
    """An offload brings back what this engine computed once; vLLM's hashes say that it is that."""
    from tiny_model import MOE_LAYERS, TOP_K

    rng = random.Random(13)
    prompts = [[rng.randrange(1, 250) for _ in range(4 * BLOCK + 1)] for _ in range(3)]
    cold = engine.run(prompts, [1] * 3)
    engine.run([[rng.randrange(1, 250) for _ in range(300)] for _ in range(5)], [1] * 5)  # evicts
    back = engine.run(prompts, [1] * 3, fill=4 * BLOCK)
    for (was, *_), (ours, oracle, output) in zip(cold, back, strict=True):
        assert output.num_cached_tokens >= oracle[2] == 4 * BLOCK  # all but the last came back
        assert ours[1:] == (4 * BLOCK + 1, 0)
        came_back = np.array(ours[0]) - oracle[0]
        assert (came_back >= 0).all()
        assert (came_back.sum(axis=1) == 4 * BLOCK * TOP_K).all()
        # Only the last token was computed again, over a KV that the oracle leaves as it is.
        assert np.abs(np.array(ours[0]) - was[0]).sum() <= 2 * MOE_LAYERS * TOP_K


def test_a_failure_in_the_workers_holds_no_release_back(engine, router):
    from wire import eventually

    del router.calls[:]
    engine.answer(random_prompts(random.Random(12), 8), [20] * 8, **{"break": "worker"})
    eventually(lambda: len(router.requests("Release")) == 8)
    assert not any(release.HasField("decode_counts") for release in router.requests("Release"))


def test_a_failure_of_the_shim_costs_no_request(engine):
    prompts = random_prompts(random.Random(9), 8)
    for params in ({"break": "scheduler"}, {}):
        pairs = engine.run(prompts, [2] * len(prompts), **params)
        assert all(len(output.outputs[0].token_ids) == 2 for *_, output in pairs)
    assert all("eldr" not in (output.kv_transfer_params or {}) for *_, output in pairs)
