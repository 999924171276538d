"""Every client passes every case; each case with a program and a router of its own."""

from functools import cache

import pytest
from eldr_conformance.runner import cases, run
from programs import PROGRAMS

pytestmark = pytest.mark.timeout(900)  # gRPC is compiled for some languages, once

TOPICS = sorted({case["topic"] for case in cases()})
built = cache(lambda name: PROGRAMS[name][1]())


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize(
    "client", [pytest.param(name, marks=marks) for name, (marks, _) in PROGRAMS.items()]
)
async def test_a_client_passes_every_case(client, topic):
    chosen = [case for case in cases() if case["topic"] == topic]
    outcomes = await run(built(client), chosen)
    assert not [outcome for outcome in outcomes if outcome.wrong]


async def test_names_are_one_case_each():
    names = [case["name"] for case in cases()]
    assert len(set(names)) == len(names) > 60
