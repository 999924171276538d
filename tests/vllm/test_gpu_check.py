"""`make gpu-check` on the CPU: the same code, less the graphs; most of it needs PyTorch alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: `make test-vllm` runs this")

from benchmarks.engines.gpu_check import __main__ as gpu_check  # noqa: E402
from benchmarks.engines.gpu_check import curve, toy, vllm_engine, vllm_part  # noqa: E402
from benchmarks.engines.gpu_check.exactness import exactness  # noqa: E402
from benchmarks.engines.gpu_check.faults import IN_LAYERS, IN_STEPS, faults  # noqa: E402

CHECKOUT = Path(__file__).parents[2]
alone = pytest.mark.vllm(engines=0)
WITHOUT_VLLM = "import sys; sys.modules['vllm'] = None; "


def run(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return toy.ToyMoe(toy.ON_CPU, torch.device("cpu"))


@alone
def test_all_that_needs_no_vllm_runs_without_it(tmp_path):
    code = WITHOUT_VLLM + "from benchmarks.engines.gpu_check.__main__ import main; sys.exit(main())"
    options = "--device", "cpu", "--steps", "30", "--turns", "2", "--out", str(tmp_path / "f.json")
    done = run(code, *options)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    parts = json.loads((tmp_path / "f.json").read_text())["parts"]
    verdicts = [
        {row["verdict"] for row in rows if row["verdict"] != "skipped"} for rows in parts.values()
    ]
    assert verdicts == [{"exact"}, {"noticed"}, {"measured"}, set()]
    (vllm,) = parts["(d) real vLLM"]
    assert vllm["found"] == "no vLLM is installed beside this PyTorch"


@alone
def test_every_planted_fault_is_noticed(model):
    found = {finding.what: finding for finding in faults(model)}
    assert {*IN_LAYERS, *IN_STEPS} < found.keys()
    said = [finding.verdict for finding in found.values()]
    assert said == ["noticed"] * (len(said) - 1) + ["skipped"]  # a stale replay wants a graph


@alone
def test_a_capture_that_is_not_exact_is_found(model, monkeypatch):
    sound = [finding.verdict for finding in exactness(model, 20)]
    assert sound == ["exact", "exact", "skipped", "skipped"]
    copies = toy.ToyLayers._copies

    def of_the_next_row(self, buffer, layer):
        copy = copies(self, buffer, layer)
        return lambda ids: copy(ids.roll(1, dims=0))

    monkeypatch.setattr(toy.ToyLayers, "_copies", of_the_next_row)
    assert [finding.verdict for finding in exactness(model, 20)][1] == "WRONG"


@alone
def test_what_is_wrong_ends_with_1(tmp_path, monkeypatch, capsys):
    wrong = gpu_check.Finding("eager", "3 of 4 tokens differ", "WRONG")
    monkeypatch.setattr(gpu_check, "exactness", lambda model, steps: iter([wrong]))
    options = ["--device", "cpu", "--turns", "1", "--vllm", "--out", str(tmp_path / "f.json")]
    assert gpu_check.main(options) == 1
    assert capsys.readouterr().out.endswith("not exact: eager\n")


@alone
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_what_it_expects_where_there_is_no_gpu(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main([])
    assert ended.value.code == 2
    assert "finds no GPU" in capsys.readouterr().err


@alone
def test_the_kernel_computes_what_the_loop_does():
    code = (
        WITHOUT_VLLM
        + """
import torch
from benchmarks.engines.gpu_check.experts import _launched, _looped
drawn = torch.Generator().manual_seed(0)
weights = torch.randn(5, 128, 192, generator=drawn)
for per_row, rows in ((1, 40), (4, 11)):
    x = torch.randn(rows, 128, generator=drawn)
    ids = torch.randint(0, 4, (rows * per_row,), generator=drawn)
    ids[0] = 4  # some expert has one pick alone
    torch.testing.assert_close(
        _launched(x, weights, ids, per_row), _looped(x, weights, ids, per_row), rtol=1e-4, atol=1e-4
    )
"""
    )
    done = run(code, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


@alone
def test_a_curve_has_as_many_active_experts_as_it_says(model):
    kept = [router.scores.clone() for router in model.routers]
    rows = model.size.graph_sizes[0]
    for active in (model.size.top_k, 11, model.size.experts):
        curve._restrict(model, rows, active, np.random.default_rng(active))
        for router in model.routers:
            ids = router.route(torch.arange(rows))
            assert len(ids.unique()) == active
            assert all(len(row.unique()) == model.size.top_k for row in ids)
    for router, scores in zip(model.routers, kept, strict=True):
        router.scores.copy_(scores)


@alone
def test_a_line_is_fitted():
    active = np.array([4, 8, 16, 32])
    found = curve._fitted(16, active, np.tile(30.0 + 2.5 * active, (5, 1)), expert_bytes=10**7)
    line = found.base_us, found.slope_us, found.low, found.high, found.r_squared
    assert line == pytest.approx((30, 2.5, 2.5, 2.5, 1))
    assert found.gb_per_second == pytest.approx(4_000)


@alone
def test_counts_are_held_against_every_position_of_the_log():
    rows = {0: np.array([[0, 1], [2, 3]]), 1: np.array([[1, 2], [2, 0]])}
    counts = np.array([[1, 2, 1, 0], [1, 0, 2, 1]])
    assert vllm_engine.as_logged(counts, rows, 2)
    assert not vllm_engine.as_logged(counts[::-1], rows, 2)
    assert not vllm_engine.as_logged(counts, rows, 3)
    assert not vllm_engine.as_logged(None, rows, 2)


@pytest.mark.vllm
def test_an_engine_is_exact_beside_its_log():
    (found,) = vllm_part.on_vllm("cpu", [vllm_engine.EAGER])
    assert (found.what, found.verdict) == ("vLLM, eager", "exact"), found
    assert found.figures["exact"] == found.figures["prompts"] == 2 * vllm_engine.PROMPTS
