"""A run: nothing is lost, everything is paired, and the router is the daemon's own."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.demos.demo.plain import plain_run
from benchmarks.demos.demo.settings import Setting
from benchmarks.demos.demo.workload import Workload as DemoWorkload
from eldr_service.core.errors import FailedPreconditionError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.fitting import fit_partition
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.cost import StepCost, built_in_costs
from eldr_service.lab.simulation.deployment import Delay, Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.traffic import Requests, Traffic
from eldr_service.lab.simulation.workload import Workload, oracle_labels
from eldr_service.policies import Policy
from eldr_service.policies.registry import create

RECORDING = SyntheticRouting(layers=3, requests=60, decode_tokens=20).generate()
COST = built_in_costs()["qwen3-30b-a3b-h200"]
SECOND = StepCost("a second a step", per_layer_us=1e6 / 3, per_expert_us=0.0)
POLICIES = (
    "round-robin",
    "random",
    "join-shortest-queue",
    "power-of-two-choices",
    "locality",
    "locality-band",
    "domain-oracle",
)


def fitted(workload, workers):
    counts = workload.recording.prefill_counts()[workload.fitted]
    return fit_partition("m", counts, RECORDING.geometry, n_clusters=workers)


def run(workload, policy, deployment, partition=None):
    return simulate(workload, create(policy, {}), deployment, partition)


def at_once(number, output_tokens):
    """A workload of equal requests, all at the same moment."""
    workload = Workload.draw(RECORDING, Traffic(1.0, 100.0), seed=0)
    requests = Requests(np.zeros(number), np.full(number, 7), np.full(number, output_tokens))
    return Workload(
        RECORDING, fitted=workload.fitted, driven=workload.driven, requests=requests, seed=0
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_gets_its_tokens_once(policy):
    workload = Workload.draw(RECORDING, Traffic(0.2, 2000.0), seed=3)
    engines = (Engine(COST, max_running=4, kv_tokens=200), Engine(COST, ranks=2))
    deployment = Deployment(engines, transfer=Delay(1e-4, 1e-6), report_interval_s=0.05)
    result = run(workload, policy, deployment, fitted(workload, 3))
    n = len(workload.requests.times_s)
    recorded = [RECORDING.decode(r) for r in result.recording.tolist()]
    assert result.tokens.tolist() == [t.stop - t.start for t in recorded]
    assert (result.placed_s >= result.arrival_s).all()
    assert (result.first_token_s > result.placed_s).all()
    assert (result.end_s >= result.first_token_s).all()
    assert set(result.worker) <= {0, 1, 2}
    assert sum(result.reasons.values()) == n == result.figures()["requests"]
    assert set(result.recording) <= set(workload.driven)


def test_equal_requests_in_turn_are_all_served_alike():
    cost = StepCost("by sequence", per_layer_us=0.0, per_expert_us=0.0, per_sequence_us=1e6 / 3)
    result = run(at_once(12, 5), "round-robin", Deployment((Engine(cost),) * 4))
    assert np.bincount(result.worker).tolist() == [3, 3, 3, 3]
    assert result.first_token_s == pytest.approx(np.full(12, 3.0))
    assert result.end_s == pytest.approx(np.full(12, 15.0))
    assert result.tpot_s == pytest.approx(np.full(12, 3.0))


def test_the_context_is_the_recorded_prompt_where_traffic_says_none():
    workload = Workload.draw(RECORDING, Traffic(1.0, 100.0), seed=0)
    one = replace(workload, requests=Requests(np.zeros(1)))
    cost = StepCost("context", per_layer_us=1.0, per_expert_us=0.0, per_context_token_us=1e6 / 3)
    result = run(one, "round-robin", Deployment((Engine(cost),)))
    prompt, tokens = RECORDING.prefill_tokens(int(result.recording[0])), int(result.tokens[0])
    assert result.end_s[0] == pytest.approx(sum(range(prompt + 1, prompt + tokens + 1)), rel=1e-4)


def test_delays_come_before_the_first_token():
    deployment = Deployment((Engine(SECOND),), prefill=Delay(2.0, 0.5), transfer=Delay(0.25, 0.1))
    result = run(at_once(1, 3), "round-robin", deployment)
    assert result.placed_s[0] == 2 + 7 * 0.5
    assert result.ttft_s[0] == pytest.approx(5.5 + 0.25 + 0.7 + 1.0)
    assert result.tpot_s[0] == pytest.approx(1.0)


def test_placed_early_the_kv_moves_while_the_prefill_runs():
    deployment = Deployment(
        (Engine(SECOND),),
        prefill=Delay(2.0, 0.5),
        transfer=Delay(0.25, 0.1),
        place_at=0.5,
        chunk_tokens=2,
    )
    result = run(at_once(1, 3), "round-robin", deployment)
    prefilled = 2 + 7 * 0.5
    assert result.placed_s[0] == pytest.approx(prefilled * 4 / 7)  # two chunks of two tokens
    last_chunk = 0.25 + 1 * 0.1
    assert result.first_token_s[0] == pytest.approx(prefilled + last_chunk + 1)
    slow = replace(deployment, transfer=Delay(0.0, 2.0))
    result = run(at_once(1, 3), "round-robin", slow)
    assert result.first_token_s[0] == pytest.approx(prefilled * 4 / 7 + 7 * 2 + 1)


def test_without_prefill_workers_a_request_is_placed_as_it_comes_and_prefilled_there():
    deployment = Deployment((Engine(SECOND),), prefill=Delay(2.0, 0.5), plain=True)
    result = run(at_once(1, 3), "round-robin", deployment)
    assert result.placed_s[0] == 0
    assert result.first_token_s[0] == pytest.approx(2 + 7 * 0.5 + 1)
    with pytest.raises(ValueError, match="no transfer"):
        replace(deployment, transfer=Delay(1.0))


@pytest.mark.parametrize("policy", ["locality-band", "marginal-cost"])
def test_without_prefill_workers_what_a_domain_used_places_its_next_requests(policy):
    workload = Workload.draw(RECORDING, Traffic(0.5, 2_000.0), seed=1)
    partition = fitted(workload, 4)
    deployment = Deployment((Engine(COST),) * 4, plain=True)
    plain = run(workload, policy, deployment, partition)
    domains = len(np.unique(RECORDING.domains[workload.driven]))
    requests = len(workload.requests.times_s)
    unknown = plain.reasons["LEAST_LOADED_NO_SIGNATURE"]  # until the first of a domain is prefilled
    assert domains <= unknown < requests / 4
    assert sum(plain.reasons.values()) == requests
    load = run(workload, "join-shortest-queue", deployment)
    known = run(workload, policy, replace(deployment, plain=False), partition)
    experts = [one.figures()["active_experts"] for one in (known, plain, load)]
    assert experts[0] < experts[1] < experts[2]


@pytest.mark.parametrize("policy", ["locality-band", "marginal-cost"])
def test_refused_early_a_request_is_placed_later(policy):
    deployment = Deployment(
        (Engine(SECOND, max_running=2),) * 3,
        prefill=Delay(0.0, 1.0),
        place_at=0.3,
        chunk_tokens=1,
    )
    workload = at_once(12, 3)
    result = run(workload, policy, deployment, fitted(workload, 3))
    assert result.refused > 0
    early = result.placed_s == 3.0
    assert early.sum() == 6
    assert (result.placed_s[~early] > 7.0).all()  # when the others have been decoded
    assert sum(result.reasons.values()) == 12
    assert set(result.reasons) <= {"POLICY", "LOCALITY_BAND"}


def test_who_finds_every_worker_full_comes_again():
    deployment = Deployment((Engine(SECOND, max_running=2),))
    result = run(at_once(4, 2), "join-shortest-queue", deployment)
    assert sorted(result.placed_s.round(1)) == [0.0, 0.0, 2.0, 2.0]
    assert sorted(result.end_s) == pytest.approx([2.0, 2.0, 4.1, 4.1], abs=0.1)
    assert result.refused == 2 * 20
    queued = run(at_once(4, 2), "join-shortest-queue", Deployment(deployment.engines, capacity=9))
    assert sorted(queued.end_s) == pytest.approx([2.0, 2.0, 4.0, 4.0])
    assert queued.refused == 0


def test_all_policies_are_given_the_same():
    workload = Workload.draw(RECORDING, Traffic(2.0, 200.0), seed=5)
    partition = fitted(workload, 4)
    results = [run(workload, p, Deployment((Engine(COST),) * 4), partition) for p in POLICIES]
    for other in results[1:]:
        assert (other.arrival_s == results[0].arrival_s).all()
        # Which recording is free can depend on the policy, for the few that come back soon.
        assert (other.recording == results[0].recording).mean() > 0.95
    again = Workload.draw(RECORDING, Traffic(2.0, 200.0), seed=5)
    repeated = run(again, POLICIES[0], Deployment((Engine(COST),) * 4), partition)
    assert repeated.figures() == results[0].figures()
    assert (repeated.end_s == results[0].end_s).all()
    other_seed = Workload.draw(RECORDING, Traffic(2.0, 200.0), seed=6)
    assert other_seed.requests.times_s[0] != workload.requests.times_s[0]


@pytest.mark.parametrize("rate", [1000.0, 20000.0])
def test_no_recording_is_in_flight_twice_while_another_is_free(rate):
    workload = Workload.draw(RECORDING, Traffic(200 / rate, rate), seed=1)
    result = run(workload, "join-shortest-queue", Deployment((Engine(COST),) * 2))
    copies = 0
    for i, now in enumerate(result.arrival_s):
        in_flight = result.recording[:i][result.end_s[:i] > now]
        if set(workload.driven) <= set(in_flight):
            copies += 1
        else:
            assert result.recording[i] not in in_flight
    assert copies == result.copies
    assert (copies > 0) == (rate > 10000)


@pytest.mark.parametrize("drive_all", [False, True])
def test_traffic_shifts_to_domains_that_the_partition_has_not_seen(drive_all):
    traffic = Traffic(0.5, 500.0)
    workload = Workload.draw(RECORDING, traffic, seed=2, drive_all=drive_all, shift_s=0.3)
    result = run(workload, "locality-band", Deployment((Engine(COST),) * 3), fitted(workload, 3))
    late = result.arrival_s >= 0.3
    domains = RECORDING.domains[result.recording]
    before, after = set(domains[~late]), set(domains[late])
    assert before
    assert after
    assert not before & after
    assert set(RECORDING.domains[workload.fitted]) <= before
    assert len(result.tokens) == len(workload.requests.times_s)


def test_no_traffic_shifts_without_domains():
    plain = replace(RECORDING, domains=np.full(RECORDING.num_requests, ""))
    with pytest.raises(ValueError, match="at least two domains"):
        Workload.draw(plain, Traffic(1.0, 10.0), seed=0, shift_s=0.5)


@pytest.mark.parametrize("policy", POLICIES)
def test_places_as_a_plain_loop_does(policy):
    plain = DemoWorkload.make(RECORDING, COST, workers=3, rate=1500.0, requests=150, seed=2)
    workload = Workload(
        RECORDING,
        fitted=plain.fitted,
        driven=plain.driven,
        requests=Requests(plain.arrivals),
        seed=2,
    )
    partition = fitted(workload, 3)
    expected = plain_run(Setting(policy, partition), plain)
    assert not expected.waited
    result = run(workload, policy, Deployment((Engine(COST),) * 3), partition)
    placements = [(plain.driven[r], w) for r, w in expected.placements]
    assert list(zip(result.recording, result.worker, strict=True)) == placements
    assert result.active_experts == expected.finished.active_experts
    assert result.figures()["tpot_ms.p99"] == pytest.approx(expected.finished.tpot_p99_ms)
    assert result.load_imbalance == pytest.approx(expected.finished.load_imbalance, rel=1e-3)


def test_what_is_held_back_is_not_driven_unless_asked():
    drawn = Workload.draw(RECORDING, Traffic(1.0, 10.0), seed=0, calibration_fraction=0.3)
    assert (len(drawn.fitted), len(drawn.driven)) == (18, 42)
    assert not set(drawn.fitted) & set(drawn.driven)
    everything = Workload.draw(RECORDING, Traffic(1.0, 10.0), 0, 0.3, drive_all=True)
    assert (everything.fitted == drawn.fitted).all()
    assert set(everything.driven) == set(range(60))
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="fraction"):
            Workload.draw(RECORDING, Traffic(1.0, 10.0), 0, fraction)


def test_decode_counts_are_those_of_the_tokens_that_were_made():
    workload = Workload.draw(RECORDING, Traffic(1.0, 10.0), seed=0)
    tokens = RECORDING.decode(int(workload.driven[0]))
    length = tokens.stop - tokens.start
    counts = workload.decode_counts(0, 2 * length + 3)
    whole = RECORDING.counts_of(tokens)
    part = RECORDING.counts_of(slice(tokens.start, tokens.start + 3))
    assert (counts.counts == 2 * whole + part).all()
    assert counts.num_tokens == 2 * length + 3


def test_a_policy_that_raises_ends_the_run():
    class Broken(Policy):
        name = "broken"
        description = "raises"

        def pick(self, request, fleet):
            raise ArithmeticError("no")

    workload = Workload.draw(RECORDING, Traffic(1.0, 10.0), seed=0)
    with pytest.raises(FailedPreconditionError, match="policy broken failed"):
        simulate(workload, Broken(), Deployment((Engine(COST),)))


def test_the_oracle_shares_workers_out_by_what_is_to_be_decoded():
    ids = np.zeros((2 * 2 + 9 + 1, 1, 1), np.uint8)  # decodes of 9 and 1 tokens
    recording = Recording(
        ModelGeometry(1, 2, 1),
        np.array(["long", "short"]),
        expert_ids=ids,
        offsets=np.array([0, 11, 14]),
        prefill_len=np.array([2, 2]),
    )
    both = np.arange(2)
    assert oracle_labels(recording, both, 10) == ["long"] * 9 + ["short"]
    assert oracle_labels(recording, both, 10, as_recorded=False) == ["long"] * 5 + ["short"] * 5


def test_a_policy_moves_requests_at_the_price_of_the_pause_and_none_unless_they_may_move():
    workload = Workload.draw(RECORDING, Traffic(20.0, 8.0, output_tokens=60), seed=1)
    by_experts = StepCost("by experts", per_layer_us=3e3, per_expert_us=2e3)
    still = Deployment((Engine(by_experts),) * 3)
    policy = {"moves": "true", "move_seconds": "0.001"}
    runs = {
        pause: simulate(
            workload,
            create("marginal-cost", policy),
            replace(still, move_pause=Delay(pause) if pause is not None else None),
        )
        for pause in (None, 0.0, 0.5)
    }
    assert runs[None].moves == 0
    for pause in (0.0, 0.5):
        assert runs[pause].moves > 10
        np.testing.assert_array_equal(runs[pause].tokens, runs[None].tokens)
        assert np.isfinite(runs[pause].end_s).all()
    assert runs[0.0].tpot_s.mean() < runs[0.5].tpot_s.mean() < runs[None].tpot_s.mean()
    unwilling = simulate(
        workload, create("marginal-cost", {}), replace(still, move_pause=Delay(0.5))
    )
    np.testing.assert_array_equal(unwilling.end_s, runs[None].end_s)
