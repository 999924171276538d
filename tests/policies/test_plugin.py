"""The README's example, built, installed and used as somebody else's distribution would be."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eldr_service.policies import registry

PIP_INSTALL = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
ROOT = Path(__file__).parents[2]

USE = """
import json, sys
sys.path.append("tests/support")
from fleet_snapshot import request, snapshot
from eldr_service.policies import registry

policy = registry.installed()["first-fit"]
made = registry.create(*registry.parse("first-fit:fill=0.75"))
print(json.dumps({
    "distribution": policy.distribution,
    "error": policy.error,
    "description": policy.description,
    "allowed": {p.name: p.allowed for p in policy.parameters},
    "others": [name for name, other in registry.installed().items() if other.error is None],
    "written": registry.parameters_of(made),
    "picks": [
        made.pick(request(), snapshot(sequences)).worker
        for sequences in ([0, 0, 0], [5, 0, 0], [6, 0, 0], [7, 8, 6])
    ],
}))
"""


def example():
    """The fenced blocks of the README that name a file."""
    readme = Path(registry.__file__).with_name("README.md").read_text()
    return dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("eldr-first-fit"), tmp_path_factory.mktemp("target")
    for name, text in example().items():
        (source / name).write_text(text)
    subprocess.run([*PIP_INSTALL, "--no-deps", "--target", target, source], check=True)
    return target


def test_the_readmes_example_works_once_installed(installed):
    path = os.pathsep.join(map(str, (installed, ROOT, ROOT / "clients/python")))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", USE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(ran.stdout)
    assert told["distribution"] == "eldr-first-fit"
    assert told["error"] is None
    assert told["description"] == "the first registered worker that is not yet filled"
    assert told["allowed"]["fill"] == "a number, 0 to 1"
    assert {"first-fit", "locality-band", "round-robin"} <= set(told["others"])
    assert told["written"] == {"load": "sequences", "fill": "0.75"}
    assert told["picks"] == [0, 0, 1, 2]
