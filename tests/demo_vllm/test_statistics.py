"""Intervals over paired blocks, and what is said of them."""

import io

import numpy as np
import pytest
from rich.console import Console

from benchmarks.demos.demo_vllm.report import print_report
from benchmarks.demos.demo_vllm.statistics import METRICS, Segment, bootstrap
from benchmarks.demos.demo_vllm.study import BAND, LOAD_ONLY, POLICIES, SUBJECTS, Load, Study
from benchmarks.demos.demo_vllm.verdict import Findings


def blocks(gain, number=20, noise=0.02, seed=0):
    """Blocks that differ by a lot, alike for all policies; subjects are faster by `gain`."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        pace = rng.uniform(0.03, 0.09)
        block = {}
        for policy in POLICIES:
            factor = 1 - gain if policy in SUBJECTS else 1.0
            tpot = pace * factor * rng.normal(1, noise, 20)
            block[policy] = Segment(
                tpot=tpot.tolist(),
                ttft=[0.2] * 20,
                answered=20,
                experts=(7.0 * factor * 100, 100.0),
                steps=(pace * factor * 100, 100.0),
                imbalance=(1.5 * 30, 30.0),
                route=(0.02, 20.0),
                tokens=(40.0 / pace / factor, 4.0),
                reasons={"LOCALITY_BAND": 20},
                processors=0.7,
            )
        made.append(block)
    return made


def findings(gain, **more):
    return Findings(
        Study(
            name="four kinds",
            kinds=("a", "b"),
            load=Load(8, 4.0),
            slots=4,
            transform="sqrt",
            blocks=blocks(gain, **more),
        )
    )


def test_pairing_finds_what_is_smaller_than_the_blocks_differ():
    _, changes = bootstrap(blocks(0.08), samples=500)
    change = changes["TPOT p50"][BAND, LOAD_ONLY[0]]
    assert change.low < change.value < change.high < 0
    experts = changes["active experts"][BAND, LOAD_ONLY[0]]
    assert experts.value == pytest.approx(-0.08)


def test_no_difference_is_inside_the_interval():
    covered = 0
    for seed in range(20):
        _, changes = bootstrap(blocks(0.0, seed=seed), samples=200)
        change = changes["TPOT p50"][BAND, LOAD_ONLY[0]]
        covered += change.low <= 0 <= change.high
    assert covered >= 16


def test_the_same_seed_gives_the_same_interval():
    one, other = (bootstrap(blocks(0.05), samples=100) for _ in range(2))
    assert one == other


def test_nothing_measured_is_no_number():
    some = blocks(0.1, number=3)
    for block in some:
        for segment in block.values():
            segment.experts = (0.0, 0.0)
    values, _ = bootstrap(some, samples=50)
    assert np.isnan(values["active experts"][BAND].value)


@pytest.mark.parametrize(
    ("gain", "said"),
    [(0.1, "a gain outside"), (-0.1, "WORSE, outside"), (0.0, "no difference outside")],
)
def test_the_verdict_follows_the_interval(gain, said):
    for subject, sentence in zip(SUBJECTS, findings(gain).sentences(), strict=False):
        assert sentence.startswith(f"{subject} against ")
        assert said in sentence


def test_fallbacks_are_counted():
    found = findings(0.1)
    found.study.blocks[0][BAND].reasons = {"CLIENT_FALLBACK": 2, "LOCALITY_BAND": 18}
    assert any(s.startswith("2 of 1200 placements fell back") for s in found.sentences())


def test_the_page_has_every_figure():
    page = io.StringIO()
    print_report(findings(0.1), 4, Console(file=page, width=140))
    text = page.getvalue()
    assert all(metric.name in text for metric in METRICS)
    assert all(policy in text for policy in POLICIES)
