"""The model's files, as `transformers`, vLLM and this folder load them."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.engines.tiny_moe.model import Shape, TinyMoE

CHECKPOINT = Path(__file__).parent / "checkpoint"
WEIGHTS = "model.safetensors"
END_OF_TEXT = 256


def save(model: TinyMoE, folder: Path, notes: dict[str, str], auxiliary: float) -> None:
    """Write bfloat16 weights, configuration and tokenizer; `notes` go into the weights' file."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(torch.bfloat16) for k, v in hugging_face(model.state_dict()).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt", **notes})
    shape = asdict(model.shape)
    rope_theta = shape.pop("rope_theta")
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        **shape,
        "intermediate_size": model.shape.moe_intermediate_size,  # of dense layers: there are none
        "norm_topk_prob": True,
        "router_aux_loss_coef": auxiliary,
        "rope_theta": rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "torch_dtype": "bfloat16",
    }
    write(folder / "config.json", config)
    generation = {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT, "do_sample": False}
    write(folder / "generation_config.json", generation)
    save_tokenizer(folder)


def load(folder: Path) -> TinyMoE:
    """The model in a folder, in float32."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(**{name: config[name] for name in Shape.__dataclass_fields__})
    weights = {k: v.float() for k, v in load_file(folder / WEIGHTS).items()}
    for i in range(shape.num_hidden_layers):
        at = f"model.layers.{i}.mlp."

        def stacked(name: str, at: str = at) -> Tensor:
            return torch.stack(
                [weights.pop(f"{at}experts.{e}.{name}.weight") for e in range(shape.num_experts)]
            )

        gate_up = torch.cat([stacked("gate_proj"), stacked("up_proj")], dim=1)
        weights[f"{at}gate_up_proj"], weights[f"{at}down_proj"] = gate_up, stacked("down_proj")
    model = TinyMoE(shape)
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()})
    return model.eval()


def notes(folder: Path) -> dict[str, str]:
    """The notes passed to `save` on how the weights were made."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        return file.metadata()


def hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of `TinyMoE` under the names of Qwen3-MoE's files: separate tensors per expert."""
    named = {}
    for name, weight in state.items():
        name = name if name.startswith("lm_head") else f"model.{name}"
        before, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for e, expert in enumerate(weight):
                gate, up = expert.chunk(2)
                named[f"{before}.experts.{e}.gate_proj.weight"] = gate.contiguous()
                named[f"{before}.experts.{e}.up_proj.weight"] = up.contiguous()
        elif last == "down_proj":
            for e, expert in enumerate(weight):
                named[f"{before}.experts.{e}.down_proj.weight"] = expert.contiguous()
        else:
            named[name] = weight
    return named


def save_tokenizer(folder: Path) -> None:
    """One token per byte, numbered as the byte: GPT-2's byte alphabet without merges."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    end = "<|endoftext|>"
    special = {"id": END_OF_TEXT, "content": end, "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    byte_level["trim_offsets"] = True
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special | flags],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letters[byte]: byte for byte in range(256)} | {end: END_OF_TEXT},
            "merges": [],
        },
    }
    write(folder / "tokenizer.json", tokenizer)
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": Shape().max_position_embeddings,
        # The model continues texts and knows no roles: a conversation is its messages in sequence.
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }
    write(folder / "tokenizer_config.json", about)


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
