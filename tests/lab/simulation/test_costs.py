import subprocess
import sys
from pathlib import Path

import pytest

from eldr_service.lab.simulation.cost import built_in_costs, load_cost

ROOT = Path(__file__).parents[3]
FITTED = {
    "qwen3-30b-a3b-h200": (19.2, 2.20),
    "gpt-oss-120b-h200": (38.3, 4.87),
    "gemma-4-26b-a4b-h200": (24.1, 2.70),
}


def test_shipped_costs():
    assert set(built_in_costs()) == {*FITTED, "qwen3-30b-a3b-rtxpro6000"}
    for name, (layer, expert) in FITTED.items():
        cost = load_cost(name)
        assert (cost.name, cost.per_layer_us, cost.per_expert_us) == (name, layer, expert)
        assert "assumed" in cost.source
    assert min(load_cost("qwen3-30b-a3b-rtxpro6000").coefficients) > 0


def test_shipped_costs_are_what_the_tables_give():
    if not (ROOT.parent / "shared" / "data" / "latency").is_dir():
        pytest.skip("needs public latency tables, which tools/fit_costs.py names")
    check = [sys.executable, str(ROOT / "tools" / "fit_costs.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("per_layer_us = 10\nper_expert_us = 2.5\nper_context_token_us = 1e-3\n")
    cost = load_cost(str(path))
    assert (cost.name, cost.coefficients) == ("mine", (0.0, 10.0, 2.5, 0.0, 0.001))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("per_layer_us = ", "not TOML"),
        ("per_layer_us = 1\n", "per_expert_us: Field required"),
        ("per_layer_us = -1\nper_expert_us = 1\n", "per_layer_us: .*greater than or equal to 0"),
        ("per_layer_us = 1\nper_expert_us = 'x'\n", "per_expert_us: .*number"),
        ("per_layer_us = 1\nper_expert_us = 1\nper_token = 1\n", "per_token"),
        ("per_layer_us = 0\nper_expert_us = 0\n", "one positive"),
        ("per_layer_us = nan\nper_expert_us = 1\n", "per_layer_us"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_cost(str(path))
    assert str(path) in str(caught.value)


def test_neither_name_nor_file():
    with pytest.raises(ValueError, match="qwen3-30b-a3b-h200"):
        load_cost("qwen")
