"""Fit the cost models that ship in eldr_service/lab/simulation/costs to public latency tables.

`*-h200-moe-layers`: one MoE layer's latency from NVIDIA's aiconfigurator, one engine's rows with
balanced routing, up to the batch that activates every expert, so that latency grows with experts,
not tokens. `*-rtxpro6000`: the sum of the parts of a whole layer in LLMServingSim's tables.
`*-h200`: that MoE layer, and the RTX PRO 6000's other parts, scaled by bytes and bandwidth.
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from model_sizes import Attention, ModelSizes, model_sizes
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
TABLES, CONFIGS = SHARED / "latency", SHARED / "model_configs"
COSTS = ROOT / "eldr_service" / "lab" / "simulation" / "costs"
RTX_TABLES = "rtxpro6000_qwen3-30b-a3b_tp1_"
MOST_TOKENS = 256  # largest decode batch, for the RTX PRO 6000
MOST_CONTEXT = 8192
RTX_TB_S, H200_TB_S = 1.79, 4.8  # memory bandwidth from NVIDIA's data sheets
FASTER = H200_TB_S / RTX_TB_S

MATRICES = {"qkv_proj": 1, "o_proj": 1}
OUTSIDE = {"embedding": 1, "final_layernorm": 1}


@dataclass(frozen=True)
class Model:
    """A model, its configuration, and which rows of its MoE layer are used."""

    name: str
    config: str
    vllm: str
    kernel: str


FUSED = ("0.22.0", "vllm_fused_moe")
TRITON = ("0.24.0", "vllm_gptossmxfp4moe_triton_oaitritonmxfp4expertsmonolithic")
MODELS = {
    "qwen3-30b-a3b": Model("Qwen3-30B-A3B", "Qwen--Qwen3-30B-A3B.json", *FUSED),
    "gemma-4-26b-a4b": Model("Gemma-4-26B-A4B", "google--gemma-4-26B-A4B.json", *FUSED),
    "gpt-oss-120b": Model("GPT-OSS-120B", "openai--gpt-oss-120b.json", *TRITON),
}


@dataclass(frozen=True)
class Line:
    """A linear fit: coefficients, and the largest relative error over its rows."""

    coefficients: tuple[float, ...]
    rows: int
    error: float


def fit(features: NDArray[np.float64], measured: NDArray[np.float64], relative: bool) -> Line:
    """Least squares with a constant first; `relative` weighs rows by 1 / measured."""
    columns = np.column_stack([np.ones(len(measured)), features])
    weight = 1 / measured if relative else np.ones(len(measured))
    solution = np.linalg.lstsq(columns * weight[:, None], measured * weight, rcond=None)[0]
    error = np.abs(columns @ solution / measured - 1).max()
    return Line(tuple(solution.tolist()), len(measured), float(error))


def h200_moe_layers(key: str) -> str:
    """The cost file of a model's MoE layers alone."""
    model, line = MODELS[key], _h200_moe_layer(key)
    return _toml(
        f"{model.name}: one MoE layer on an H200 as NVIDIA aiconfigurator (Apache-2.0) measured it"
        f" with vLLM {model.vllm}, {line.rows} rows with balanced routing; no row is further off"
        f" than {line.error:.1%}. Attention, dense parts and what is outside the layers are assumed"
        " to cost nothing, which overstates the experts' share of a step.",
        per_layer_us=line.coefficients[0],
        per_expert_us=line.coefficients[1],
    )


def h200(key: str) -> str:
    """The cost file of a model's whole steps.

    The RTX PRO 6000's table does not show how long a layer's matrices take to read: repeated alone,
    they stay in its cache. So their time is their bytes at the output head's rate.
    """
    model, experts = MODELS[key], _h200_moe_layer(key)
    sizes, measured = model_sizes(CONFIGS / model.config), _measured_sizes()
    small = {"layernorm": sizes.layer_norms, "qk_norm": sizes.qk_norms, "rotary_emb": 1}
    matrices, kernels, outside = (_dense(parts) for parts in (MATRICES, small, OUTSIDE))
    head, sampler = (_per_sequence({part: 1}) for part in ("lm_head", "sampler"))
    bytes_per_us = measured.head_bytes / head.coefficients[0] * FASTER
    attended = [(kind, _attention(kind.window)) for kind in sizes.attention]
    # Costs that grow with the batch, at the RTX's rate and with the model's own sizes.
    of_layer = matrices.coefficients[1] * sizes.layer_bytes / measured.layer_bytes
    of_step = head.coefficients[1] * sizes.head_bytes / measured.head_bytes
    of_step += sampler.coefficients[1] * sizes.vocabulary / measured.vocabulary
    grows = of_layer + kernels.coefficients[1] + of_step / sizes.layers
    sequence, token = (
        sum(
            kind.share * line.coefficients[i] * kind.kv_bytes / measured.attention[0].kv_bytes
            for kind, line in attended
        )
        for i in (1, 2)
    )
    constant = sum(kind.share * line.coefficients[0] for kind, line in attended)
    return _toml(
        f"{model.name} on one H200, whole steps. Measured there: the MoE layer, by NVIDIA"
        f" aiconfigurator (Apache-2.0) with vLLM {model.vllm}, {experts.rows} rows with balanced"
        f" routing, none further off than {experts.error:.1%}. The rest is derived from"
        " Qwen3-30B-A3B on one RTX PRO 6000, as casys-kaist/LLMServingSim (MIT) measured it with"
        f" vLLM 0.19.0, batches up to {MOST_TOKENS}. Assumed: weights outside the experts,"
        f" {sizes.layer_bytes / 1e6:.0f} MB per layer and {sizes.head_bytes / 1e6:,.0f} MB of"
        f" output head, are read as fast as the head there, times {H200_TB_S} / {RTX_TB_S}, the"
        f" ratio of the memory bandwidths; attention reads {_kv(sizes.attention)}, and it and what"
        " else grows with the batch are faster by that ratio; constant parts of attention, norms,"
        " rotary embedding and sampler take as long as there; the time between steps counts as"
        " nothing. Largest error of a row there: attention up to"
        f" {MOST_CONTEXT} tokens {max(line.error for _, line in attended):.0%}, matrices"
        f" {matrices.error:.0%}, norms and rotary embedding {kernels.error:.0%}, head"
        f" {head.error:.0%}, sampler {sampler.error:.0%}.",
        per_layer_us=experts.coefficients[0]
        + sizes.layer_bytes / bytes_per_us
        + kernels.coefficients[0]
        + constant,
        per_expert_us=experts.coefficients[1],
        per_sequence_us=(grows + sequence) / FASTER,
        per_context_token_us=token / FASTER,
        fixed_us=outside.coefficients[0]
        + sizes.head_bytes / bytes_per_us
        + sampler.coefficients[0],
    )


def _kv(kinds: tuple[Attention, ...]) -> str:
    """What a layer's attention reads, in words."""
    words = []
    for kind in kinds:
        layers = f" in {kind.share:.0%} of the layers" if len(kinds) > 1 else ""
        window = f" of the last {kind.window:,}" if kind.window else ""
        words.append(f"{kind.kv_bytes:,} bytes per token{window}{layers}")
    return " and ".join(words)


def rtx_pro_6000() -> str:
    """Qwen3-30B-A3B on one RTX PRO 6000."""
    rows = [row for row in _rows(f"{RTX_TABLES}moe.csv") if int(row["tokens"]) <= MOST_TOKENS]
    experts = fit(
        np.array([[int(r["activated_experts"]), int(r["tokens"])] for r in rows], float),
        np.array([float(r["time_us"]) for r in rows]),
        relative=True,
    )
    layer = _dense({**MATRICES, "qk_norm": 1, "rotary_emb": 1, "layernorm": 2})
    outside, heads = _dense(OUTSIDE), _per_sequence({"lm_head": 1, "sampler": 1})
    attended, layers = _attention(None), _measured_sizes().layers
    a, e = attended.coefficients, experts.coefficients
    fixed, fixed_sequence = (outside.coefficients[i] + heads.coefficients[i] for i in (0, 1))
    return _toml(
        "Qwen3-30B-A3B in bfloat16 on one RTX PRO 6000 as casys-kaist/LLMServingSim (MIT) measured"
        f" its parts with vLLM 0.19.0, batches up to {MOST_TOKENS}. Largest error of a row: experts"
        f" {experts.error:.0%}, dense parts of a layer {layer.error:.0%}, head and sampler"
        f" {heads.error:.0%}, attention up to {MOST_CONTEXT} tokens {attended.error:.0%}."
        " Assumed: two of the table's layernorms per layer; what head and sampler cost per sequence"
        f" is spread over {layers} layers.",
        per_layer_us=e[0] + layer.coefficients[0] + a[0],
        per_expert_us=e[1],
        per_sequence_us=e[2] + layer.coefficients[1] + a[1] + fixed_sequence / layers,
        per_context_token_us=a[2],
        fixed_us=fixed,
    )


def _h200_moe_layer(key: str) -> Line:
    """Latency by active experts."""
    model = MODELS[key]
    rows = [
        row
        for row in _rows("h200_moe_layer_latency_3models.csv")
        if row["model"] == key
        and row["distribution"] == "balanced"
        and (row["version"], row["kernel_source"]) == (model.vllm, model.kernel)
        and row["moe_dtype"] in ("bfloat16", "w4a16_mxfp4")
        and int(row["num_tokens"]) * int(row["topk"]) <= int(row["num_experts"])
    ]
    active = np.array([[int(row["num_tokens"]) * int(row["topk"])] for row in rows], float)
    return fit(active, np.array([float(row["latency"]) * 1e3 for row in rows]), relative=False)


def _measured_sizes() -> ModelSizes:
    """Sizes of the model in the RTX PRO 6000's tables."""
    return model_sizes(CONFIGS / MODELS["qwen3-30b-a3b"].config)


def _attention(window: int | None) -> Line:
    """Time by batch and tokens of context, if at most a window of each context is read."""
    times = {
        (int(row["n_decode"]), int(row["kv_decode"])): float(row["time_us"])
        for row in _rows(f"{RTX_TABLES}attention.csv.gz")
        if row["prefill_chunk"] == "0"
        and int(row["n_decode"]) <= MOST_TOKENS
        and 0 < int(row["kv_decode"]) <= MOST_CONTEXT
    }
    features = np.array([[batch, batch * context] for batch, context in times], float)
    read = [(batch, min(context, window or context)) for batch, context in times]
    return fit(features, np.array([times[row] for row in read]), relative=True)


def _dense(parts: Mapping[str, int]) -> Line:
    """Time by tokens of parts, each run the given number of times."""
    return _summed(f"{RTX_TABLES}dense.csv", "tokens", parts)


def _per_sequence(parts: Mapping[str, int]) -> Line:
    return _summed(f"{RTX_TABLES}per_sequence.csv", "sequences", parts)


def _summed(table: str, size: str, parts: Mapping[str, int]) -> Line:
    sums: dict[int, float] = {}
    for row in _rows(table):
        if int(row[size]) <= MOST_TOKENS:
            cost = parts.get(row["layer"], 0) * float(row["time_us"])
            sums[int(row[size])] = sums.get(int(row[size]), 0.0) + cost
    sizes = np.array(sorted(sums), float)
    return fit(sizes[:, None], np.array([sums[int(n)] for n in sizes]), relative=True)


@cache
def _text(table: str) -> list[str]:
    data = (TABLES / table).read_bytes()
    return (gzip.decompress(data) if table.endswith(".gz") else data).decode("utf-8").splitlines()


def _rows(table: str) -> Iterator[dict[str, str]]:
    yield from csv.DictReader(_text(table))


def _toml(source: str, **coefficients: float) -> str:
    lines = [f"{name} = {float(f'{value:.3g}')}" for name, value in coefficients.items()]
    return "\n".join(["# Written by tools/fit_costs.py.", *lines, f'source = "{source}"', ""])


def main() -> int:
    """Write the files, or (--check) list those that differ; 1 if any does or tables are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    if not TABLES.is_dir():
        print(f"{TABLES}: expected the latency tables, found nothing", file=sys.stderr)
        return 1
    texts = {"qwen3-30b-a3b-rtxpro6000": rtx_pro_6000()}
    for key in MODELS:
        texts |= {f"{key}-h200": h200(key), f"{key}-h200-moe-layers": h200_moe_layers(key)}
    differing = 0
    for name, text in texts.items():
        path = COSTS / f"{name}.toml"
        if check:
            same = path.exists() and path.read_text("utf-8") == text
            differing += not same
            print(f"{path.name}: {'as fitted' if same else 'differs from the fit'}")
        else:
            path.write_text(text, "utf-8")
            print(f"{path.name}\n{text}")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
