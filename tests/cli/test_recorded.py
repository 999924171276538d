"""From engines' recordings to figures: --activations, --arrivals and --cost of one folder."""

import pytest
from engine_recording import STEP_US, write, write_decodes, write_prefills
from routed import separable

QUICK = ("--workers=4", "--jobs=1", "--seeds=2", "--duration=0.4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    write(folder, separable(3, 40), rate=300.0)
    return folder


@pytest.fixture(scope="module")
def three(folder):
    return [f"--{option}={folder}" for option in ("activations", "arrivals", "cost")]


def test_simulate(eldr, three, folder):
    document = eldr.json("simulate", *three, *QUICK)
    assert document["rate_per_s"] == pytest.approx(600.0)  # two engines were recorded
    (cost,) = document["costs"]
    assert cost["per_expert_us"] == pytest.approx(STEP_US[2], rel=0.1)
    assert "steps, R²" in cost["source"]
    for figures in document["policies"].values():
        assert figures["requests"] == pytest.approx(480, rel=0.1)
        assert figures["tokens"] == 31 * figures["requests"]
    again = eldr.json("simulate", *three, *QUICK, "--rate=100")
    assert again["rate_per_s"] == 100


def test_what_was_joined_and_fitted_is_said(three):
    from typer.testing import CliRunner

    from eldr_service.cli.app import app

    said = CliRunner().invoke(app, ["simulate", *three, *QUICK]).stderr
    assert "120 requests, 120 with experts, 0 not whole; decode engines: 2" in said
    assert "900 steps, R²" in said


def test_report(eldr, three, folder, tmp_path):
    html = tmp_path / "report.html"
    document = eldr.json("report", *three, *QUICK, "--figure=none", f"--out={html}")
    assert document["command"].count(folder.name) == 3
    assert str(folder.parent) not in document["command"]
    page = html.read_text("utf-8")
    assert "What ELDR gains on recorded traffic of m" in page
    assert "Arrivals and lengths are as recorded" in page
    assert "A step's time follows the recorded steps of m. Fitted: " in page.replace("&#39;", "'")
    assert "stand in for the prefill" not in page


def test_fit(eldr, folder, tmp_path):
    partition = tmp_path / "partition"
    eldr("fit", folder, "--slots=3", "--model=m", f"--out={partition}")
    assert partition.stat().st_size


def test_a_missing_half_is_named(eldr, tmp_path):
    write_prefills(tmp_path / "prefills", separable(2, 4))
    write_decodes(tmp_path / "decodes", separable(2, 4))
    for half, missing in (("prefills", "decode"), ("decodes", "prefill")):
        for option in ("activations", "arrivals"):
            options = {
                "activations": tmp_path / half,
                "cost": "qwen3-30b-a3b-h200",
                "rate": 100,
                "workers": 2,
                option: tmp_path / half,
            }
            words = [f"--{name}={value}" for name, value in options.items()]
            assert f"no {missing} half" in eldr("simulate", *words, code=2)


def test_steps_that_tell_no_cost_are_refused(eldr, tmp_path):
    write(tmp_path, separable(1, 4))
    words = [f"--{option}={tmp_path}" for option in ("activations", "cost")]
    said = eldr("simulate", *words, "--rate=9", "--workers=2", code=2)
    assert "a step cost needs 200" in said
