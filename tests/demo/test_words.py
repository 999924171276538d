"""What the demo says of figures, and how it draws them."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from benchmarks.demos.demo.heat_map import heat_map, tally, worker_order
from benchmarks.demos.demo.run import Figures
from benchmarks.demos.demo.verdict import (
    best_load_only,
    chance,
    change,
    compared,
    goal_met,
    verdict,
)

BAND = "locality-band"
ALIKE = Figures(
    active_experts=20.0,
    step_ms=2.0,
    tpot_p50_ms=2.5,
    tpot_p99_ms=3.0,
    load_imbalance=1.5,
    tokens=1000,
)


def figures(**own):
    same = dict.fromkeys(compared(BAND), ALIKE)
    same["join-shortest-queue"] = replace(ALIKE, active_experts=19.0, load_imbalance=1.2)
    return same | {"locality-band": replace(ALIKE, **own)}


def test_a_goal_met_and_what_it_costs():
    found = figures(active_experts=18.0, tpot_p99_ms=3.3)
    assert best_load_only(found) == "join-shortest-queue"
    assert change(found, "locality-band") == pytest.approx(18 / 19 - 1)
    assert goal_met(found, BAND)
    goal, better, costs, *rest = verdict(found, BAND, "gpt-oss-20b", 16)
    assert "18.00" in goal
    assert "19.00: -5.3%. That meets the goal of 5% fewer." in goal
    assert "step time 2.00 ms against 2.00 under round-robin (+0.0%)" in better
    assert "p99 of TPOT 3.30 ms against 3.00 under round-robin (+10.0%)" in costs
    assert "load imbalance 1.50 against 1.20 under join-shortest-queue (+25.0%)" in costs
    assert rest == []


def test_a_goal_missed_is_said_to_be_missed():
    found = figures(active_experts=18.5, load_imbalance=1.2)
    assert not goal_met(found, BAND)
    goal, _, costs = verdict(found, BAND, "another", 4)
    assert "-2.6%. That misses the goal of 5% fewer." in goal
    assert "The goal is set for gpt-oss-20b and 16 workers" in goal
    assert costs == "It costs nothing in tail or balance here."


def test_other_seeds_are_not_hidden():
    said = chance({1: -0.07, 2: -0.021, 3: 0.03})
    assert "seeds 1 to 3" in said
    assert "-7.0% to +3.0%: the goal is met by 1 of 3." in said


def test_a_rival_that_touches_fewer_is_named():
    found = figures(active_experts=18.0) | {"locality": replace(ALIKE, active_experts=17.0)}
    assert "locality touches fewer still, 17.00" in verdict(found, BAND, "gpt-oss-20b", 16)[-1]


def test_the_heat_map_lines_blocks_up_and_needs_no_colours():
    domains = np.array(["b", "a", "b", "c"])
    names, counts = tally(domains, [(0, 2), (1, 1), (2, 2), (3, 0), (1, 0)], 3)
    assert names.tolist() == ["a", "b", "c"]
    assert counts.tolist() == [[1, 1, 0], [0, 0, 2], [1, 0, 0]]
    assert worker_order(counts).tolist() == [1, 2, 0]
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(heat_map(names, counts))
    rows = [line.split() for line in capture.get().splitlines()]
    assert rows == [
        ["domain", "requests", "1", "2", "0"],
        ["a", "2", "50", "·", "50"],
        ["b", "2", "·", "100", "·"],
        ["c", "1", "·", "·", "100"],
        ["all", "5", "20", "40", "40"],
    ]


def test_the_verdict_is_on_the_policy_that_was_asked_about():
    assert compared("marginal-cost") == compared(BAND)
    assert compared("of-a-plugin")[-2:] == ("of-a-plugin", "domain-oracle")
    found = figures(active_experts=18.0) | {"marginal-cost": replace(ALIKE, active_experts=17.5)}
    goal, *_ = verdict(found, "marginal-cost", "gpt-oss-20b", 16)
    assert goal.startswith("marginal-cost touches 17.50")
