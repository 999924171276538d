import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eldr_service.lab.simulation.cost import built_in_costs, load_cost, moe_layers

ROOT = Path(__file__).parents[3]
MOE_LAYERS = {
    "qwen3-30b-a3b-h200": (19.2, 2.20),
    "gpt-oss-120b-h200": (38.3, 4.87),
    "gemma-4-26b-a4b-h200": (24.1, 2.70),
}
RTX = "qwen3-30b-a3b-rtxpro6000"
# Layers; bytes of all weights outside the experts, of an expert, of a token's KV in a layer.
SIZES = {
    "qwen3-30b-a3b-h200": (48, 48 * 38e6 + 622e6, 9.4e6, 2048),
    "gpt-oss-120b-h200": (36, 36 * 53e6 + 1158e6, 13.2e6, 1024),
    "gemma-4-26b-a4b-h200": (30, 30 * 110e6 + 1476e6, 11.9e6, 683),
}


def test_shipped_costs():
    alone = {f"{name}-moe-layers": fitted for name, fitted in MOE_LAYERS.items()}
    assert set(built_in_costs()) == {*MOE_LAYERS, *alone, RTX}
    for name, (layer, expert) in alone.items():
        cost = load_cost(name)
        assert cost.coefficients == (0.0, layer, expert, 0.0, 0.0)
        assert cost.name == name
        assert "assumed to cost nothing" in cost.source
    for name in (*MOE_LAYERS, RTX):
        assert min(load_cost(name).coefficients) > 0
        assert "Assumed: " in load_cost(name).source


@pytest.mark.parametrize("name", MOE_LAYERS)
def test_whole_steps_are_the_measured_moe_layers_and_more(name):
    whole, alone = load_cost(name), moe_layers(name)
    assert whole.per_expert_us == alone.per_expert_us
    assert whole.per_layer_us > alone.per_layer_us
    assert moe_layers(alone.name) is moe_layers(RTX) is None


@pytest.mark.parametrize("context", [200, 4000])
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("name", MOE_LAYERS)
def test_no_step_reads_faster_than_memory_does(name, batch, context):
    """4.8 TB/s, by NVIDIA's data sheet of the H200; and within four times of that."""
    layers, weights, expert, kv = SIZES[name]
    active = np.full(layers, 8 if batch == 1 else 96)
    seconds = load_cost(name).step_seconds(active, batch, batch * context)
    read = weights + active.sum() * expert + layers * batch * context * kv
    assert 1 < seconds / (read / 4.8e12) < 4


def test_a_step_beside_one_that_others_measured():
    """Qwen3-30B-A3B in bfloat16, ten requests of 2,048 and 1,024 tokens, random.

    vLLM on one H100 (3.35 TB/s): 13.18 ms TPOT on average, prefills of others in between and MoE
    kernels not tuned (https://github.com/vllm-project/vllm/pull/23151).
    """
    cost = load_cost("qwen3-30b-a3b-h200")
    active = np.full(48, round(128 * (1 - (1 - 8 / 128) ** 10)))
    seconds = cost.step_seconds(active, 10, 10 * (2048 + 512))
    assert 0.5 * 13.18e-3 * 3.35 / 4.8 < seconds < 13.18e-3


def test_beside_experts_changes_all_but_them():
    cost = load_cost(RTX)
    active = np.full(48, 40)
    experts = 1e-6 * cost.per_expert_us * active.sum()
    rest = cost.step_seconds(active, 16, 9000) - experts
    twice = cost.beside_experts(2.0).step_seconds(active, 16, 9000)
    assert twice == pytest.approx(2 * rest + experts)


def test_shipped_costs_are_what_the_tables_give():
    if not (ROOT.parent / "shared" / "data" / "latency").is_dir():
        pytest.skip("needs others' latency tables in ../shared: tools/fit_costs.py names them")
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
