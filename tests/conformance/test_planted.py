"""The cases find faults: each of those planted into the Python client."""

import sys
from pathlib import Path

import pytest
from eldr_conformance.runner import cases, run
from planted import FAULTS

PROGRAM = [sys.executable, str(Path(__file__).with_name("planted.py"))]


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_cases_find_a_planted_fault(fault):
    _, name = FAULTS[fault]
    [case] = [case for case in cases() if case["name"] == name]
    [outcome] = await run([*PROGRAM, fault], [case])
    assert outcome.wrong.startswith("step") or "received" in outcome.wrong
    print(outcome.wrong)
