"""`eldr simulate`: the document of the contract, and what it says of wrong use."""

import math
import re

import pytest

from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.tuning import WIDTHS


@pytest.fixture(scope="module")
def activations(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "small.npz"
    SyntheticRouting(layers=3, requests=60, decode_tokens=20).generate().save(path)
    return path


@pytest.fixture
def simulate(eldr, activations):
    """Runs it with options that make sense, but for those that are given."""

    def run(*more, code=0, json=True, **changed):
        options = {
            "activations": activations,
            "workers": 3,
            "rate": 500,
            "duration": 0.5,
            "cost": "qwen3-30b-a3b-h200",
            "jobs": 1,
            **changed,
        }
        words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        return (eldr.json if json else eldr)("simulate", *words, *more, code=code)

    return run


def test_document(simulate):
    document = simulate("--policy=round-robin", "--policy=locality-band:tau=0.2", seed=4, seeds=3)
    assert document["seeds"] == [4, 5, 6]
    assert set(document["policies"]) == {"round-robin", "locality-band:tau=0.2"}
    for figures in document["policies"].values():
        tpot = figures["tpot_ms"]
        assert set(tpot) == {"p50", "p95", "p99", "mean"}
        assert 0 < tpot["p50"] <= tpot["p95"] <= tpot["p99"]
        assert 4 <= figures["active_experts"] <= 32
        assert figures["load_imbalance"] >= 1
        assert figures["requests"] == sum(one["requests"] for one in figures["of_each_seed"]) > 600
        assert sum(figures["reasons"].values()) == figures["requests"]
    by_figure = {change["figure"]: change for change in document["changes"]}
    change = by_figure["tpot_ms.p50"]
    assert change["policy"] == "locality-band:tau=0.2"
    assert change["best_load_only"] == "round-robin"
    low, high = change["interval"]
    assert low < change["relative"] < high
    each = [
        band["tpot_ms"]["p50"] / turn["tpot_ms"]["p50"] - 1
        for band, turn in zip(
            document["policies"]["locality-band:tau=0.2"]["of_each_seed"],
            document["policies"]["round-robin"]["of_each_seed"],
            strict=True,
        )
    ]
    assert change["relative"] == pytest.approx(sum(each) / 3)


def test_processes_change_nothing(simulate):
    two = simulate("--policy=random", "--policy=locality", jobs=2, seeds=2)
    assert two == simulate("--policy=random", "--policy=locality", jobs=1, seeds=2)


def test_by_default_three_bands_stand_beside_marginal_cost_and_the_four(simulate):
    document = simulate(duration=0.1)
    paper, tuned, auto, last = list(document["policies"])[4:]
    assert paper == "locality-band:transform=counts-idf,tau=0.1"
    assert (tuned, auto, last) == ("locality-band:width=tuned", "locality-band", "marginal-cost")
    assert all(change["interval"] is None for change in document["changes"])
    (seed,) = document["policies"][paper]["of_each_seed"]
    assert (seed["band"]["transform"], seed["band"]["tau"]) == ("counts-idf", 0.1)
    (seed,) = document["policies"][tuned]["of_each_seed"]
    means = {
        (transform, one["width"]): one["tpot_ms_mean"]
        for transform, tried in seed["tried"].items()
        for one in tried
    }
    assert len(means) == 3 * len(WIDTHS)
    best = seed["band"]["transform"], pytest.approx(seed["band"]["width"])
    assert min(means, key=means.get) == best


def test_bands_are_named_by_what_they_are(simulate):
    policies = ("random", "locality-band:transform=counts-idf,tau=0.1", "locality-band")
    shown = simulate(*(f"--policy={policy}" for policy in policies), json=False)
    _, figures, widths, changes = shown.split("\n\n")
    for table in (figures, widths, changes):
        assert "the paper's band  " in table
        assert "band, auto  " in table
    (paper,) = [line for line in widths.splitlines() if line.startswith("the paper's band")]
    name, transform, tau, _, policy = re.split("  +", paper.strip())
    assert (name, transform, tau, policy) == ("the paper's band", "counts-idf", "0.1", policies[1])


def test_by_default_steps_are_whole_ones(eldr, activations):
    load = ("--workers=3", "--rate=500", "--duration=0.1", "--jobs=1", "--policy=random")
    (cost,) = eldr.json("simulate", f"--activations={activations}", *load)["costs"]
    assert cost["name"] == "qwen3-30b-a3b-h200"
    assert min(value for name, value in cost.items() if name.endswith("_us")) > 0


def test_table(simulate):
    shown = simulate("--policy=round-robin", "--policy=locality", json=False)
    assert "TPOT p50 ms" in shown
    (band,) = [line.split() for line in shown.splitlines() if "active_experts" in line]
    assert (band[0], band[-1]) == ("locality", "round-robin")  # no interval of one seed


def test_a_single_token_has_no_tpot(simulate):
    document = simulate("--policy=random", output_tokens=1)
    assert document["policies"]["random"]["tpot_ms"]["p50"] is None
    assert not math.isnan(document["policies"]["random"]["active_experts"])
    assert document["changes"] == []


def test_engines_and_trace(simulate, tmp_path):
    trace = tmp_path / "trace.jsonl"
    line = '{{"timestamp": {}, "input_length": 50, "output_length": {}}}\n'
    trace.write_text("".join(line.format(10 * i, 3 + i % 5) for i in range(50)))
    cost = tmp_path / "own.toml"
    cost.write_text("per_layer_us = 30\nper_expert_us = 1\n")
    document = simulate(
        *("--policy=join-shortest-queue", "--expert-parallel", f"--cost={cost}"),
        *("--prefill=5:10", "--transfer=1", "--ranks=2", "--kv-tokens=100"),
        workers=4,
        arrivals=trace,
    )
    assert [cost["name"] for cost in document["costs"]] == ["qwen3-30b-a3b-h200", "own"]
    figures = document["policies"]["join-shortest-queue"]
    assert figures["ttft_ms"]["p50"] > 6.5
    assert figures["tokens"] == pytest.approx(5 * figures["requests"], rel=0.05)


def test_replicas_without_prefill_workers(simulate):
    plain = simulate("--policy=marginal-cost", "--without-prefill-workers", "--prefill=5")
    reasons = plain["policies"]["marginal-cost"]["reasons"]
    assert 0 < reasons["LEAST_LOADED_NO_SIGNATURE"] < reasons["POLICY"]
    assert plain["policies"]["marginal-cost"]["ttft_ms"]["p50"] > 5


def test_bursts_fill_workers_and_leave_them_empty(simulate):
    even, bursts = (
        simulate("--policy=join-shortest-queue", gap_cv=cv, seeds=3)["policies"][
            "join-shortest-queue"
        ]
        for cv in (1, 6)
    )
    spread = [figures["tpot_ms"]["p99"] / figures["tpot_ms"]["p50"] for figures in (even, bursts)]
    assert spread[1] > spread[0]


def test_without_prefill_workers_there_is_nothing_to_transfer(simulate):
    told = simulate("--without-prefill-workers", code=2, json=False, transfer=1)
    assert "nothing to transfer" in told


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"policy": "fastest"}, "locality-band"),
        ({"policy": "locality-band:tau=9"}, "a number, 0 to 2"),
        ({"policy": "locality-band:transform=sqr"}, "did you mean sqrt?"),
        ({"cost": "h100"}, "neither a file nor one of gemma"),
        ({"cost": "gpt-oss-120b-h20"}, "did you mean gpt-oss-120b-h200?"),
        ({"activations": "missing.npz"}, "does not exist"),
        ({"activations": __file__}, "not a complete .npz file"),
        ({"arrivals": "missing.csv"}, "No such file"),
        ({"arrivals": "missing.csv", "gap_cv": 2}, "a trace has its own gaps"),
        ({"gap_cv": 0}, "gap_cv must be positive"),
        ({"arrivals": __file__}, "expected .csv (Azure)"),
        ({"output_tokens": "0"}, "output_tokens must be positive"),
        ({"rate": -1}, "rate_per_s must be positive"),
        ({"ranks": 2}, "3 workers are not a multiple of 2 ranks"),
        ({"prefill": "soon"}, "expected MS or MS:US"),
        ({"calibration_fraction": 1}, "between 0 and 1"),
        ({"kv_tokens": 5, "output_tokens": 9}, "never fit"),
        ({"workers": 40}, "40"),
    ],
)
def test_wrong_use(simulate, changed, said):
    assert said in simulate(code=2, json=False, **changed)
