"""Every client passes every case; each case with a program and a router of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from eldr_conformance.runner import cases, run
from go import needs_go

pytestmark = pytest.mark.timeout(900)  # gRPC is compiled for Go, once

CLIENTS = Path(__file__).parents[2] / "clients"
PYTHON = [sys.executable, "-m", "eldr_conformance.python_driver"]
TOPICS = sorted({case["topic"] for case in cases()})


@pytest.fixture(scope="session")
def go_program(tmp_path_factory) -> list[str]:
    program = tmp_path_factory.mktemp("go") / "program"
    subprocess.run(
        ["go", "build", "-o", program, "./conformance"], cwd=CLIENTS / "go", check=True, timeout=600
    )
    return [str(program)]


@pytest.fixture(params=["Python, asyncio", "Python, threads", pytest.param("Go", marks=needs_go)])
def program(request) -> list[str]:
    if request.param == "Go":
        return request.getfixturevalue("go_program")
    return PYTHON if "asyncio" in request.param else [*PYTHON, "--sync"]


@pytest.mark.parametrize("topic", TOPICS)
async def test_a_client_passes_every_case(program, topic):
    outcomes = await run(program, [case for case in cases() if case["topic"] == topic])
    assert not [outcome for outcome in outcomes if outcome.wrong]


async def test_names_are_one_case_each():
    names = [case["name"] for case in cases()]
    assert len(set(names)) == len(names) > 60
