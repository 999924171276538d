"""`make demo-vllm` in short: two decode engines, two blocks, experts hardly widened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_engines import SPAWN

pytestmark = pytest.mark.vllm(engines=3)

CHECKOUT = Path(__file__).parents[2]
OPTIONS = "--decode-engines=2 --expert-mb=0.5 --blocks=2 --workloads=1 --minutes=0.5"


def test_the_demo_from_beginning_to_end(tmp_path, tmp_path_factory):
    from rig import DAEMON_PYTHON

    scratch = str(tmp_path_factory.mktemp("d"))  # short: vLLM's sockets are in it

    done = subprocess.run(
        [
            DAEMON_PYTHON,
            "-m",
            "benchmarks.demos.demo_vllm",
            *OPTIONS.split(),
            "--fit-prompts=30",
            f"--json={tmp_path / 'demo.json'}",
            f"--record={tmp_path / 'record'}",
        ],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ELDR_VLLM_PYTHON": sys.executable,
            "TMPDIR": scratch,
            SPAWN: "1",  # as its users run it
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (found,) = json.loads((tmp_path / "demo.json").read_text())["workloads"]
    assert found["reasons"]["locality-band"].get("LOCALITY_BAND")
    assert found["reasons"]["marginal-cost"].get("POLICY")
    assert set(found["reasons"]["join-shortest-queue"]) <= {"POLICY", "CLIENT_FALLBACK"}
    assert found["failed"] == found["left_booked"] == 0
    # A block's end may cut a request off before it is placed, never after its first token.
    placed = sum(sum(each.values()) for each in found["reasons"].values())
    assert found["requests"] - found["unanswered"] <= placed <= found["requests"]
    for name, metric in found["metrics"].items():
        assert name in done.stdout
        for column in ("join-shortest-queue", "locality-band", "marginal-cost"):
            value, low, high = metric[column]
            assert 0 < low <= value <= high, (name, column)
    children = subprocess.run(["pgrep", "-f", scratch], capture_output=True, check=False)
    assert not children.stdout  # everything has ended with it

    # What was recorded can be simulated: the same experts come of the same tokens.
    (tmp_path / "cost.toml").write_text(
        "per_layer_us = 2000.0\nper_expert_us = 10.0\nper_sequence_us = 200.0\n"
    )
    again = subprocess.run(
        [
            DAEMON_PYTHON,
            "-m",
            "benchmarks.engines.simulated_blocks",
            str(tmp_path / "record"),
            f"--cost={tmp_path / 'cost.toml'}",
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr[-4000:]
    table = json.loads((CHECKOUT / "build/bench/simulated_blocks.json").read_text())["blocks-0"]
    for policy in ("join-shortest-queue", "locality-band", "marginal-cost"):
        for measured, simulated in table[policy]:
            assert measured["reported"] == pytest.approx(measured["active_experts"], rel=0.15)
            assert simulated["active_experts"] == pytest.approx(measured["active_experts"], rel=0.3)
