"""The advice: what it rests on, when it is undecided, and that the tables say the same."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from routed import separable

from eldr_service.lab.reports.findings import FIGURES, Findings
from eldr_service.lab.reports.page import page
from eldr_service.lab.reports.plan import Plan
from eldr_service.lab.reports.report import make_report
from eldr_service.lab.reports.verdict import Advice, verdict
from eldr_service.lab.reports.words import change
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.study import Run, Study
from eldr_service.lab.simulation.traffic import Traffic

OWN, OTHER, LOAD_ONLY = "marginal-cost", "locality-band", "round-robin"
ENOUGH = 5
SPREAD = (0.01, -0.01, 0.004, -0.004, 0.0)  # of the seeds, the same for all policies: paired


def findings(means, p99=None, *, seeds=ENOUGH, requests=1_000, held=8.0, noise=None):
    """Of figures that are given: TPOT in ms by policy, `noise` what a policy's seeds differ by."""
    p99, noise = p99 or {}, noise or {}
    base = Study(
        activations=Path("/somewhere/recording.npz"),
        policies=tuple(means),
        deployment=Deployment((Engine(built_in_costs()["qwen3-30b-a3b-h200"]),) * 4),
        traffic=Traffic(duration_s=1.0, rate_per_s=1_000.0),
        seeds=tuple(range(seeds)),
    )

    def run(policy, seed):
        off = 1 + SPREAD[seed % 5] + noise.get(policy, 0.0) * (-1) ** seed
        figures = dict.fromkeys(FIGURES, 1.0) | {"copies": 0, "decided_again": 0}
        mean = means[policy] * off
        figures |= {"tpot_ms.p50": mean, "tpot_ms.mean": mean, "in_flight": held}
        figures |= {"tpot_ms.p99": p99.get(policy, 2.0) * off, "requests": requests}
        return Run(figures | {"active_experts": 9.0}, Counter(), {"a": [9] * 4, "b": [1] * 4})

    runs = {policy: [run(policy, seed) for seed in range(seeds)] for policy in means}
    return Findings(Plan(base, separable(2, 8)), runs, {}, [(1, 2.0), (8, 9.0)])


def report(found):
    return make_report(
        found,
        name="recorded",
        made=datetime(2026, 1, 2, tzinfo=UTC),
        command="eldr report --seeds 2",
        decide=lambda seeds, times, workers: f"{seeds} seeds, {times:.1f} times, {workers} workers",
    )


def test_a_gain_names_its_figure_and_its_interval():
    found = findings({LOAD_ONLY: 1.0, OWN: 0.9, OTHER: 0.95})
    advised = verdict(found)
    assert (advised.advice, advised.policy, advised.level) == (Advice.USE, OWN, {})
    made = report(found)
    figure = change(found.changes[OWN, "tpot_ms.mean"])
    assert figure.startswith("−10.0% ±")
    assert made.opening.advice.startswith(f"Use {OWN}: mean TPOT {figure} against {LOAD_ONLY}")
    assert made.opening.decide == ""


@pytest.mark.parametrize(
    "given",
    [
        {"means": {LOAD_ONLY: 1.0, OWN: 0.9}},
        {"means": {LOAD_ONLY: 1.0, "random": 0.98, OWN: 0.9, OTHER: 0.9}, "noise": {OTHER: 0.02}},
        {"means": {LOAD_ONLY: 1.0, OWN: 1.1}},
        {"means": {LOAD_ONLY: 1.0, OWN: 0.9}, "p99": {OWN: 3.0}},
        {"means": {LOAD_ONLY: 1.0, OWN: 0.99}, "noise": {OWN: 0.1}},
        {"means": {LOAD_ONLY: 1.0, OWN: 0.9}, "seeds": 3},
    ],
)
def test_the_verdict_says_what_the_table_says(given):
    found = findings(**given)
    made, advised = report(found), verdict(found)
    headings, rows = made.table.headings, {row[0]: row for row in made.table.rows}
    about = rows[advised.rests_on.policy]
    assert about[headings.index("Δ mean")] in made.opening.advice
    assert about[headings.index("Δ mean")] == made.opening.tiles[1].number
    assert made.table.rows[made.table.marked][0] == found.names[advised.policy]
    if advised.advice is Advice.USE:
        means = {name: float(row[headings.index("mean ms")]) for name, row in rows.items()}
        assert about[headings.index("Δ mean")].startswith("−")
        assert means[advised.policy] < means[LOAD_ONLY]


def test_few_seeds_or_requests_are_undecided_and_say_what_would_decide():
    few_seeds = findings({LOAD_ONLY: 1.0, OWN: 0.9}, seeds=3)
    assert verdict(few_seeds).advice is Advice.UNDECIDED
    said = report(few_seeds).opening
    assert said.advice.startswith("Undecided (3 seeds, 5 needed). So far marginal-cost")
    assert said.decide == "5 seeds, 1.0 times, 4 workers"
    assert said.decide in page(report(few_seeds))
    few_requests = findings({LOAD_ONLY: 1.0, OWN: 0.9}, requests=50)
    said = report(few_requests).opening
    assert said.advice.startswith("Undecided (50 requests per seed, 200 needed)")
    assert said.decide == "5 seeds, 4.4 times, 4 workers"


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
@pytest.mark.parametrize("mean", [0.5, 0.9, 1.0, 1.5])
def test_no_run_with_few_seeds_gives_advice(seeds, mean):
    found = verdict(findings({LOAD_ONLY: 1.0, OWN: mean}, seeds=seeds))
    assert found.advice is Advice.UNDECIDED
    assert not found.gains


def test_a_wide_interval_is_undecided_and_a_narrow_one_is_not():
    wide = findings({LOAD_ONLY: 1.0, OWN: 0.98}, noise={OWN: 0.05})
    assert verdict(wide).advice is Advice.UNDECIDED
    assert report(wide).opening.decide == "10 seeds, 1.0 times, 4 workers"
    assert "no policy gains: marginal-cost comes nearest" in report(wide).opening.advice
    narrow = findings({LOAD_ONLY: 1.0, OWN: 1.0}, noise={OWN: 0.0001})
    assert verdict(narrow).advice is Advice.STAY
    assert report(narrow).opening.advice.startswith("Stay with round-robin: marginal-cost comes")


def test_a_lower_mean_with_a_higher_p99_is_no_gain():
    found = findings({LOAD_ONLY: 1.0, OWN: 0.9}, {OWN: 3.0})
    assert verdict(found).advice is Advice.STAY
    said = report(found).opening.advice
    assert said.startswith("Stay with round-robin: marginal-cost has a mean TPOT of −10.0% ±")
    assert "but a p99 of +50.0% ±" in said


def test_which_of_two_is_better_may_be_undecided():
    found = findings({LOAD_ONLY: 1.0, OWN: 0.9, OTHER: 0.902}, noise={OTHER: 0.01})
    advised = verdict(found)
    assert (advised.advice, list(advised.level)) == (Advice.USE, [OTHER])
    assert f"It is undecided whether it is better than {OTHER}" in " ".join(
        report(found).opening.more
    )


def test_workers_with_next_to_no_requests_tell_nothing():
    found = findings({LOAD_ONLY: 1.0, OWN: 1.0}, held=0.8)
    assert verdict(found).advice is Advice.LIGHT
    said = report(found).opening
    assert said.advice.startswith("The load is too small to tell: a worker holds 0.8 requests")
    assert said.decide == "5 seeds, 1.0 times, 2 workers"
    gains = findings({LOAD_ONLY: 1.0, OWN: 0.8}, held=1.9)
    assert verdict(gains).advice is Advice.USE  # what the table shows is not denied


def test_groups_with_too_few_requests_are_grey():
    made = report(findings({LOAD_ONLY: 1.0, OWN: 0.9}))
    section = next(section for section in made.sections if section.name == "map")
    assert section.table.rows == (("a", "36", "4.0", "4.0"), ("b", "4", "–", "–"))
    assert page(made).count("too few to tell") == 2 + 1  # a map each, and the text


def test_what_to_know_first_is_at_the_top():
    caveats = dict(report(findings({LOAD_ONLY: 1.0, OWN: 0.9})).opening.caveats)
    assert "not measured on your hardware" in caveats["Costs of a step"]
    assert "Prefill engines" in caveats["Left out"]
    assert caveats["Counted"] == (
        "1,000 requests per seed in 1 simulated seconds, 5 seeds, 2 policies: 10,000 decisions;"
        " 8.0 requests on a worker."
    )
