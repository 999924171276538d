"""Which load is simulated where the one that was asked for cannot tell anything."""

import pytest
from routed import separable

from eldr_service.lab.reports.load import TELLING, Asked, pick_load, rate_for, requests_held
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine

ENGINE = Engine(built_in_costs()["qwen3-30b-a3b-h200"])
PROMPT = OUTPUT = 30


def deployment(workers):
    return Deployment((ENGINE,) * workers)


def asked(**changed):
    given = {"workers": None, "rate_per_s": None, "duration_s": None, "trace": None}
    return Asked(**given | {"output_tokens": None, "driven": 200, "residences": 10} | changed)


@pytest.fixture(scope="module")
def recording():
    return separable(4, 100)


def held(recording, load):
    engines = load.deployment.engines
    return requests_held(engines, recording, load.rate_per_s, PROMPT, OUTPUT)


def test_requests_held_is_the_inverse_of_the_rate(recording):
    for batch in (1, 5, 9):
        rate = rate_for([ENGINE], recording, batch, PROMPT, OUTPUT)
        found = requests_held([ENGINE], recording, rate, PROMPT, OUTPUT)
        assert found == pytest.approx(batch, rel=0.05)
    assert requests_held([ENGINE], recording, 1e9, PROMPT, OUTPUT) == 256


def test_what_tells_stays_as_it_was_asked_for(recording):
    load = pick_load(asked(), recording, deployment)
    assert (load.deployment.workers, load.note) == (16, "")
    again = asked(workers=16, rate_per_s=load.rate_per_s, duration_s=3.0)
    again = pick_load(again, recording, deployment)
    assert (again.rate_per_s, again.duration_s, again.note) == (load.rate_per_s, 3.0, "")


def test_a_rate_that_is_too_low_is_raised_and_said(recording):
    load = pick_load(asked(workers=8, rate_per_s=20.0, duration_s=60.0), recording, deployment)
    assert held(recording, load) > TELLING
    assert load.deployment.workers == 8
    assert load.rate_per_s * load.duration_s == pytest.approx(20 * 60, rel=0.05)  # as many requests
    assert "20 requests per second would leave" in load.note
    assert f"{load.rate_per_s:,.0f} requests per second on 8 workers" in load.note


def test_a_recording_that_is_too_small_takes_fewer_workers(recording):
    load = pick_load(asked(driven=40), recording, deployment)
    assert load.deployment.workers == 5
    assert held(recording, load) > TELLING
    assert "the recording would leave" in load.note
    assert "on each of 16 workers" in load.note


def test_workers_that_were_asked_for_stay_and_nothing_is_claimed(recording):
    load = pick_load(asked(workers=16, driven=20), recording, deployment)
    assert (load.deployment.workers, load.note) == (16, "")
    assert held(recording, load) < TELLING
