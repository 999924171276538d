"""From engines' answers to a report, without a shim."""

import json

import numpy as np
import pytest
from returned_answers import answers, sglang, vllm
from routed import separable

QUICK = ("--workers=4", "--jobs=1", "--seeds=1", "--duration=0.1", "--figure=none", "--quick")
DRAWN = separable(3, 12)


def logged(path, form=vllm):
    lines = [
        {"created": 1_700_000_000 + n // 2, "tenant": f"t{n % 3}", "response": answer}
        for n, answer in enumerate(answers(DRAWN, form))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_answers_to_a_report(eldr, tmp_path):
    source, out, arrivals = (tmp_path / name for name in ("a.jsonl", "x.npz", "x.jsonl"))
    logged(source)
    words = ("recording", "import", source, "--experts=16", f"--out={out}")
    document = eldr.json(*words, "--domain-field=tenant", f"--arrivals={arrivals}")
    assert document["requests"] == 36
    assert document["geometry"] == {"num_layers": 3, "num_experts": 16, "top_k": 2}
    assert (document["layers"], document["dense_layers"]) == ([1, 2, 3], [0])
    assert (document["prompt_tokens"], document["decode_tokens"]) == (36 * 30, 36 * 29)
    assert document["domains"] == 3
    assert document["arrivals"]["requests"] == 36
    times = [json.loads(line)["timestamp"] for line in arrivals.read_text().splitlines()]
    assert np.diff(times).tolist() == [500.0] * 35  # two in a second of which no more is said
    html = tmp_path / "report.html"
    taken = f"--activations={out}", f"--arrivals={arrivals}", f"--out={html}"
    made = eldr.json("report", *taken, "--rate=30", *QUICK)
    assert set(made["policies"]) >= {"locality-band", "join-shortest-queue"}
    assert made["command"].count("--arrivals x.jsonl") == 1
    assert "What ELDR gains on x" in html.read_text("utf-8")
    eldr("fit", out, "--slots=3", "--model=m", f"--out={tmp_path / 'partition'}")


def test_the_summary_counts_what_was_left_out(eldr, tmp_path):
    source = logged(tmp_path / "a.jsonl", sglang)
    with source.open("a") as file:
        file.writelines("{}\n" for _ in range(12))
    shape = "--hidden-layers=4", "--top-k=2"
    words = ("recording", "import", source, "--experts=16", f"--out={tmp_path / 'x.npz'}", *shape)
    said = eldr(*words)
    assert "3 layers x 16 experts, top-2; left out as not MoE: 0" in said
    assert "12 malformed, 0 without experts, 0 of one token, 0 cut short" in said
    document = eldr.json(*words)
    assert len(document["malformed"]) == document["left_out"]["malformed"] == 12
    assert document["malformed"][0]["place"] == f"{source} line 37"


def test_malformed_lines_are_named(tmp_path):
    from typer.testing import CliRunner

    from eldr_service.cli.app import app

    source = logged(tmp_path / "a.jsonl")
    with source.open("a") as file:
        file.writelines("{}\n" for _ in range(12))
    words = ["recording", "import", str(source), "--experts=16", f"--out={tmp_path / 'x.npz'}"]
    said = CliRunner().invoke(app, words).stderr.splitlines()
    assert said[0].startswith(f"{source} line 37: expected an answer with choices")
    assert said[10:] == ["and 2 more; --json names them all"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "--experts"),
        (("--experts=16", "--top-k=2"), 2, "go together"),
        (("--experts=16",), 1, "give --hidden-layers and --top-k"),
        (("--experts=8", "--hidden-layers=4", "--top-k=2"), 1, "experts from 0 to 7"),
        (("--experts=16", "--hidden-layers=4", "--top-k=2", "--layers=9"), 1, "from 0 to 3"),
    ],
)
def test_wrong_use(eldr, tmp_path, options, code, said):
    source, out = logged(tmp_path / "a.jsonl", sglang), tmp_path / "x.npz"
    assert said in eldr("recording", "import", source, f"--out={out}", *options, code=code)
    assert not out.exists()
