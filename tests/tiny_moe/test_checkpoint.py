"""The files of the checkpoint, read without torch."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

FOLDER = Path(__file__).parents[2] / "benchmarks/engines/tiny_moe" / "checkpoint"


@pytest.fixture(scope="module")
def config():
    return json.loads((FOLDER / "config.json").read_text())


def test_it_is_small_enough_for_a_repository():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12_000_000


def test_the_weights_are_those_of_the_configuration(config):
    hidden, wide = config["hidden_size"], config["moe_intermediate_size"]
    with safe_open(FOLDER / "model.safetensors", "numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for layer in range(config["num_hidden_layers"]):
        mlp = f"model.layers.{layer}.mlp"
        assert shapes.pop(f"{mlp}.gate.weight") == (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            at = f"{mlp}.experts.{expert}"
            assert shapes.pop(f"{at}.gate_proj.weight") == (wide, hidden)
            assert shapes.pop(f"{at}.up_proj.weight") == (wide, hidden)
            assert shapes.pop(f"{at}.down_proj.weight") == (hidden, wide)
    assert not any(".mlp." in name for name in shapes)
    assert shapes["lm_head.weight"] == (config["vocab_size"], hidden)


def test_it_says_how_it_came_about():
    with safe_open(FOLDER / "model.safetensors", "numpy") as file:
        about = file.metadata()
    assert about["step"] == about["steps"]  # trained to the end
    assert len(about["texts"]) == 64
    assert {"seed", "threads", "torch", "auxiliary", "rate", "window"} <= about.keys()


def test_a_token_is_a_byte(config):
    tokenizer = json.loads((FOLDER / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    assert tokenizer["model"]["merges"] == []
    assert sorted(vocabulary.values()) == list(range(config["vocab_size"]))
    assert all(vocabulary[chr(byte)] == byte for byte in range(33, 127))
    assert vocabulary["<|endoftext|>"] == config["eos_token_id"] == 256
