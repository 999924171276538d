"""Makes the model's experts as large as a real model's, with exactly the same outputs.

Zero neurons are added to every expert: rows of its gate and up projections, columns of its down
projection. A step then reads as many bytes per active expert as wanted, which determine decode
time; a token's experts, and their outputs, do not change.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.engines.tiny_moe import checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MULTIPLE = 32
"""Of intermediate sizes: the block size of vLLM's CPU kernels."""


def intermediate_size(megabytes: float, hidden_size: int, dtype: torch.dtype) -> int:
    """The size that brings an expert's three matrices closest to this many MB (10^6 bytes)."""
    bytes_a_neuron = 3 * hidden_size * dtype.itemsize
    return max(1, round(megabytes * 1e6 / bytes_a_neuron / MULTIPLE)) * MULTIPLE


def padded(name: str, weight: Tensor, size: int) -> Tensor:
    """An expert's matrix with `size` neurons; any other weight unchanged."""
    if ".experts." not in name:
        return weight
    dim = 1 if ".down_proj." in name else 0
    shape = list(weight.shape)
    shape[dim] = size
    wide = torch.zeros(shape, dtype=weight.dtype)
    wide.narrow(dim, 0, weight.shape[dim]).copy_(weight)
    return wide


def widen(source: Path, target: Path, size: int, dtype: torch.dtype) -> None:
    """Write `source` with experts of `size` neurons in `dtype`; ValueError if they have more."""
    config = json.loads((source / "config.json").read_text())
    if size < config["moe_intermediate_size"]:
        raise ValueError(
            f"experts already have {config['moe_intermediate_size']} neurons, > {size}"
        )
    target.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / checkpoint.WEIGHTS)
    wide = {name: padded(name, weight.to(dtype), size) for name, weight in weights.items()}
    notes = checkpoint.notes(source)
    save_file(wide, target / checkpoint.WEIGHTS, metadata=notes)
    name = str(dtype).removeprefix("torch.")
    checkpoint.write(
        target / "config.json", config | {"moe_intermediate_size": size, "torch_dtype": name}
    )
    for other in source.iterdir():
        if other.name not in (checkpoint.WEIGHTS, "config.json"):
            shutil.copy(other, target)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.tiny_moe.widen", description=__doc__
    )
    parser.add_argument("target", type=Path, help="folder to write the model to")
    parser.add_argument("--source", type=Path, default=checkpoint.CHECKPOINT, metavar="FOLDER")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--expert-mb", type=float, metavar="MB", help="10^6 bytes per expert")
    wanted.add_argument("--intermediate-size", type=int, metavar="N", help="neurons per expert")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    config = json.loads((options.source / "config.json").read_text())
    hidden, experts = config["hidden_size"], config["num_hidden_layers"] * config["num_experts"]
    size = options.intermediate_size or intermediate_size(options.expert_mb, hidden, dtype)
    try:
        widen(options.source, options.target, size, dtype)
    except ValueError as error:
        parser.error(str(error))
    megabytes = 3 * hidden * size * dtype.itemsize / 1e6
    print(f"{options.target}: {experts} experts of {size} neurons, {megabytes:.1f} MB each")


if __name__ == "__main__":
    main()
