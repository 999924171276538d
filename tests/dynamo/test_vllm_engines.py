"""`dynamo.vllm` with real vLLM engines on the CPU, KV over NIXL, decoded where ELDR says."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [
    pytest.mark.vllm(engines=4),
    pytest.mark.skipif(
        not os.environ.get("ELDR_TEST_DYNAMO"),
        reason="needs Dynamo, 0.8 GB of packages: ELDR_TEST_DYNAMO=1 installs and runs it",
    ),
]

TOKENS = 24
OPENINGS = ("def main():", "The licence says", "int main(void)", "Le chat est")
PROMPTS = [f"{opening} and goes on with number {n}: " for n in range(3) for opening in OPENINGS]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # Here, as what it imports is in vLLM's environment alone.
    from dynamo_vllm_cluster import running_vllm_cluster

    with running_vllm_cluster(tmp_path_factory.mktemp("dynamo")) as cluster:
        yield cluster


def test_tokens_are_those_of_one_engine_wherever_they_are_decoded(cluster):
    daemon = cluster.daemon
    cluster.until(lambda: len(daemon.workers()) == 2, "the daemon knows both workers", 60)
    names = daemon.workers().keys()
    assert "engine-a" in names  # registered by its connector, the other by ELDR's router
    for prompt in PROMPTS[:4]:  # what the partition is fitted on
        cluster.tokens(prompt, TOKENS)
    daemon.fit_what_it_saw()
    alone = [cluster.tokens_alone(prompt, TOKENS) for prompt in PROMPTS]
    found = [cluster.tokens(prompt, TOKENS) for prompt in PROMPTS]
    assert [tokens for tokens, _ in found] == alone
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda prompt: cluster.tokens(prompt, TOKENS), PROMPTS))
    assert [tokens for tokens, _ in at_once] == alone
    decisions = [daemon.explain(request) for _, request in found + at_once]
    for decision, prompt in zip(decisions, PROMPTS * 2, strict=True):
        assert decision.known_tokens == decision.prompt_tokens == len(prompt)
        assert decision.placement.partition_version
    assert {decision.placement.worker_id for decision in decisions} == names
    cluster.until(lambda: not daemon.booked(), "all bookings end", 30)
