"""The bands that stand side by side: how they are written, fitted and tuned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from routed import separable

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.lab.reports.plan import Points, make_plan
from eldr_service.lab.simulation import tuning
from eldr_service.lab.simulation.contender import (
    BAND,
    PAPERS_BAND,
    TUNED_BAND,
    Contender,
    names,
)
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.fit import fit
from eldr_service.lab.simulation.study import Study, run_studies, run_study, steps
from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.tuning import WIDTHS, Choice, inner_workloads, tune

DEPLOYMENT = Deployment((Engine(built_in_costs()["gpt-oss-120b-h200"]),) * 3)
TRAFFIC = Traffic(duration_s=0.03, rate_per_s=4000)
TRANSFORMS = ("counts", "counts-idf", "sqrt")


def study(path, *policies, **more):
    return Study(
        activations=Path(path),
        policies=policies,
        deployment=DEPLOYMENT,
        traffic=TRAFFIC,
        **{"seeds": (0, 1), **more},
    )


@pytest.fixture(scope="module")
def recording():
    return separable(4, 20, layers=3, experts=24)


@pytest.fixture(scope="module")
def path(recording, tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "four-kinds.npz"
    recording.save(path)
    return path


def test_the_labs_words_are_taken_off():
    paper = Contender.read(PAPERS_BAND)
    assert (paper.transform, paper.tuned, paper.transforms) == (
        "counts-idf",
        False,
        (paper.transform,),
    )
    assert paper.create().parameters == Contender.read("locality-band:tau=0.1").create().parameters
    tuned = Contender.read("locality-band:width=tuned,min_band=1")
    assert (tuned.tuned, tuned.transforms) == (True, TRANSFORMS)
    made = tuned.create(0.35).parameters
    assert (made.width, made.tau, made.min_band) == (0.35, None, 1)
    assert Contender.read("locality-band:width=tuned,transform=sqrt").transforms == ("sqrt",)
    assert Contender.read("locality:transform=counts").transform == "counts"


@pytest.mark.parametrize(
    ("written", "field", "said"),
    [
        ("locality-band:transform=count-idf", "parameters.transform", "did you mean counts-idf?"),
        ("locality-band:transform=", "parameters.transform", "one of auto, counts, counts-idf"),
        ("random:transform=sqrt", "parameters.transform", "random, which reads no partition"),
        ("locality-band:width=tuend", "parameters.width", "a number, 0 to 10"),
        ("locality-band:width=tuned,tau=0.1", "parameters", "either tau or width"),
        ("locality:width=tuned", "parameters.width", "a parameter of locality"),
    ],
)
def test_wrong_words(written, field, said):
    with pytest.raises(InvalidArgumentError, match=field) as caught:
        Contender.read(written)
    assert said in str(caught.value)


def test_bands_are_called_by_what_they_are_where_there_are_several():
    assert names([BAND, "random"]) == {BAND: BAND, "random": "random"}
    several = names(["random", PAPERS_BAND, TUNED_BAND, BAND, "locality-band:tau=0.2"])
    assert list(several.values()) == [
        "random",
        "the paper's band",
        "band, tuned",
        "band, auto",
        "locality-band:tau=0.2",
    ]


def test_a_policy_gets_the_partition_of_the_transform_that_it_asks_for(path, recording):
    policies = ("random", PAPERS_BAND, "locality-band:transform=sqrt,width=0.35", BAND)
    asked = study(path, *policies)
    ticks = []
    runs = run_study(asked, done=lambda: ticks.append(1))
    assert len(ticks) == steps(asked) == 2 * (3 + 4)  # auto, counts-idf, sqrt
    assert [run.band for run in runs["random"]] == [None, None]
    fitted = asked.seen(asked.workload(0))
    for policy, transform in ((PAPERS_BAND, "counts-idf"), (policies[2], "sqrt")):
        band = runs[policy][0].band
        spread = fit(recording, fitted, transform, 3, 0).spread
        assert band.transform == transform
        assert band.tau == pytest.approx(band.width * spread)
    assert runs[PAPERS_BAND][0].band.tau == 0.1
    assert runs[policies[2]][0].band.width == pytest.approx(0.35)
    assert runs["random"][0].reasons == {"POLICY": runs["random"][0].figures["requests"]}


def test_without_a_difference_in_use_idf_gives_no_partition():
    flat = SyntheticRouting(
        layers=2, experts=4, top_k=2, requests=12, popularity=0, domain=0, request=0
    )
    everywhere = flat.generate()
    assert (everywhere.prefill_counts() > 0).all()
    requests = np.arange(12)
    assert fit(everywhere, requests, "counts-idf", 2, 0) is None
    assert fit(everywhere, requests, "sqrt", 2, 0).num_slots == 2
    contender = Contender.read(TUNED_BAND)
    inner = inner_workloads(everywhere, requests, TRAFFIC, 0)
    tried = tuning.try_widths(contender, "counts-idf", inner, DEPLOYMENT)
    assert set(tried.values()) == {np.inf}
    assert tune(contender, everywhere, requests, TRAFFIC, DEPLOYMENT, 0).transform != "counts-idf"


def test_the_choice_is_the_lowest_mean_of_all():
    tried = {"counts": {0.1: 3.0, 0.5: 2.0}, "sqrt": {0.1: 1.5, 0.5: 1.5}}
    chosen = Choice.of(tried)
    assert (chosen.transform, chosen.width) == ("sqrt", 0.1)


def test_tuning_splits_the_given_requests_alone(recording):
    given = np.arange(7, 40)
    first, second = inner_workloads(recording, given, TRAFFIC, 3)
    assert sorted([*first.fitted, *first.driven]) == given.tolist()
    assert (len(first.fitted), len(first.driven)) == (17, 16)
    np.testing.assert_array_equal(second.fitted, first.driven)
    np.testing.assert_array_equal(second.driven, first.fitted)
    assert first.seed != second.seed
    whole, _ = inner_workloads(recording, given, TRAFFIC, 3, drive_all=True)
    assert sorted(whole.driven) == given.tolist()
    np.testing.assert_array_equal(whole.fitted, first.fitted)
    assert first.requests.times_s[-1] < TRAFFIC.duration_s / 2
    with pytest.raises(ValueError, match="two requests"):
        inner_workloads(recording, given[:1], TRAFFIC, 3)


def with_other_tokens(recording, requests):
    """The recording with other tokens in these requests."""
    ids = recording.expert_ids.copy()
    rng = np.random.default_rng(9)
    for request in requests:
        tokens = slice(*recording.offsets[request : request + 2])
        ids[tokens] = rng.permutation(recording.geometry.num_experts)[ids[tokens]]
    return replace(recording, expert_ids=ids)


def test_the_driven_half_has_no_say_in_what_is_chosen(path, recording, tmp_path):
    asked = study(path, TUNED_BAND, seeds=(0,))
    (run,) = run_study(asked)[TUNED_BAND]
    assert set(run.choice.tried) == set(TRANSFORMS)
    assert all(tuple(tried) == WIDTHS for tried in run.choice.tried.values())
    assert (run.band.transform, run.band.width) == (
        run.choice.transform,
        pytest.approx(run.choice.width),
    )
    work = asked.workload(0)
    with_other_tokens(recording, work.driven).save(tmp_path / "driven.npz")
    (other,) = run_study(study(tmp_path / "driven.npz", TUNED_BAND, seeds=(0,)))[TUNED_BAND]
    assert other.choice == run.choice  # every figure of every candidate
    assert other.figures != run.figures
    with_other_tokens(recording, work.fitted).save(tmp_path / "fitted.npz")
    (other,) = run_study(study(tmp_path / "fitted.npz", TUNED_BAND, seeds=(0,)))[TUNED_BAND]
    assert other.choice.tried != run.choice.tried


def test_a_study_may_be_tuned_in_another(path):
    base = study(path, TUNED_BAND, seeds=(0,))
    faster = replace(base, traffic=replace(TRAFFIC, rate_per_s=8000))
    there = replace(faster, tuned_in=base)
    ticks = []
    found = run_studies([base, there], done=lambda: ticks.append(1))
    (own,), (theirs,) = (of_study[TUNED_BAND] for of_study in found)
    assert theirs.choice == own.choice
    assert theirs.figures != own.figures
    assert len(ticks) == steps(base) + steps(there) == steps(base) + 3


def test_sweeps_keep_what_was_tuned_and_tau_is_varied_where_there_is_no_width(path, recording):
    base = study(path, TUNED_BAND, BAND, seeds=(0,))
    points = Points(rates=(1.0, 2.0), taus=(0.0, 0.3))
    plan = make_plan(base, recording, DEPLOYMENT.engines[:1], points, ["rate", "tau"])
    assert [at.tuned_in for at in plan.sweeps["rate"].studies] == [None, base]
    tau = plan.sweeps["tau"]
    assert (tau.parameter, tau.policies) == ("tau of band, auto", (BAND,))
    assert [at.policies for at in tau.studies] == [(f"{BAND}:tau=0",), (f"{BAND}:tau=0.3",)]
    only = make_plan(replace(base, policies=(TUNED_BAND,)), recording, (), points, ["tau"])
    assert only.sweeps == {}
