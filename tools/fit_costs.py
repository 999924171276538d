"""Fit the cost models that ship in eldr_service/lab/simulation/costs to public latency tables.

H200: one MoE layer's latency by NVIDIA's aiconfigurator, one engine's rows with balanced routing,
up to the batch that activates every expert, so that latency grows by experts and not by tokens.
RTX PRO 6000: LLMServingSim's tables of a whole layer, whose parts are added.
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
TABLES = ROOT.parent / "shared" / "data" / "latency"
COSTS = ROOT / "eldr_service" / "lab" / "simulation" / "costs"
MOST_TOKENS = 256  # a decode batch at most, for the RTX PRO 6000
MOST_CONTEXT = 8192
LAYERS = 48  # of Qwen3-30B-A3B, over which what a step costs for a sequence is spread


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


def h200(model: str, name: str, engine: tuple[str, str]) -> str:
    """A model's file; engine is (version of vLLM, kernel)."""
    rows = [
        row
        for row in _rows(TABLES / "h200_moe_layer_latency_3models.csv")
        if row["model"] == model
        and row["distribution"] == "balanced"
        and (row["version"], row["kernel_source"]) == engine
        and row["moe_dtype"] in ("bfloat16", "w4a16_mxfp4")
        and int(row["num_tokens"]) * int(row["topk"]) <= int(row["num_experts"])
    ]
    active = np.array([[int(row["num_tokens"]) * int(row["topk"])] for row in rows], float)
    line = fit(active, np.array([float(row["latency"]) * 1e3 for row in rows]), relative=False)
    return _toml(
        f"{name}: one MoE layer on an H200 as NVIDIA aiconfigurator (Apache-2.0) measured it with"
        f" vLLM {engine[0]}, {line.rows} rows with balanced routing; no row is further off than"
        f" {line.error:.1%}. Not measured there, and so assumed to cost nothing: attention, dense"
        " parts, what is outside the layers. That overstates the experts' share of a step.",
        per_layer_us=line.coefficients[0],
        per_expert_us=line.coefficients[1],
    )


def rtx_pro_6000() -> str:
    """Qwen3-30B-A3B on one RTX PRO 6000."""
    prefix = "rtxpro6000_qwen3-30b-a3b_tp1_"
    moe = [row for row in _rows(TABLES / f"{prefix}moe.csv") if int(row["tokens"]) <= MOST_TOKENS]
    experts = fit(
        np.array([[int(r["activated_experts"]), int(r["tokens"])] for r in moe], float),
        np.array([float(r["time_us"]) for r in moe]),
        relative=True,
    )
    dense = list(_rows(TABLES / f"{prefix}dense.csv"))
    in_layer = {"qkv_proj": 1, "qk_norm": 1, "rotary_emb": 1, "o_proj": 1, "layernorm": 2}
    layer = _summed(dense, "tokens", lambda part: in_layer.get(part, 0))
    outside = _summed(dense, "tokens", lambda part: part in ("embedding", "final_layernorm"))
    heads = _summed(list(_rows(TABLES / f"{prefix}per_sequence.csv")), "sequences", lambda part: 1)
    attention = [
        row
        for row in _rows(TABLES / f"{prefix}attention.csv.gz")
        if row["prefill_chunk"] == "0"
        and int(row["n_decode"]) <= MOST_TOKENS
        and 0 < int(row["kv_decode"]) <= MOST_CONTEXT
    ]
    batch = np.array([int(r["n_decode"]) for r in attention], float)
    context = batch * np.array([int(r["kv_decode"]) for r in attention])
    attended = fit(
        np.column_stack([batch, context]),
        np.array([float(r["time_us"]) for r in attention]),
        relative=True,
    )
    a, e = attended.coefficients, experts.coefficients
    fixed, fixed_sequence = (outside.coefficients[i] + heads.coefficients[i] for i in (0, 1))
    return _toml(
        "Qwen3-30B-A3B in bfloat16 on one RTX PRO 6000 as casys-kaist/LLMServingSim (MIT) measured"
        f" its parts with vLLM 0.19.0, batches up to {MOST_TOKENS}. Largest error of a row: experts"
        f" {experts.error:.0%}, dense parts of a layer {layer.error:.0%}, head and sampler"
        f" {heads.error:.0%}, attention up to {MOST_CONTEXT} tokens {attended.error:.0%}."
        " Assumed: two of the table's layernorms per layer; what head and sampler cost per sequence"
        f" is spread over {LAYERS} layers.",
        per_layer_us=e[0] + layer.coefficients[0] + a[0],
        per_expert_us=e[1],
        per_sequence_us=e[2] + layer.coefficients[1] + a[1] + fixed_sequence / LAYERS,
        per_context_token_us=a[2],
        fixed_us=fixed,
    )


def _summed(rows: list[dict[str, str]], size: str, times: Callable[[str], float]) -> Line:
    """A line through the sums of a table's parts, each taken so many times, by batch size."""
    sums: dict[int, float] = {}
    for row in rows:
        if int(row[size]) <= MOST_TOKENS:
            cost = times(row["layer"]) * float(row["time_us"])
            sums[int(row[size])] = sums.get(int(row[size]), 0.0) + cost
    sizes = np.array(sorted(sums), float)
    return fit(sizes[:, None], np.array([sums[int(n)] for n in sizes]), relative=True)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    yield from csv.DictReader(text.splitlines())


def _toml(source: str, **coefficients: float) -> str:
    lines = [f"{name} = {float(f'{value:.3g}')}" for name, value in coefficients.items()]
    return "\n".join(["# Written by tools/fit_costs.py.", *lines, f'source = "{source}"', ""])


def main() -> int:
    """Write the files, or (--check) say which differ; 1 when one does or the tables are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    if not TABLES.is_dir():
        print(f"{TABLES}: the latency tables are not here", file=sys.stderr)
        return 1
    triton = "vllm_gptossmxfp4moe_triton_oaitritonmxfp4expertsmonolithic"
    fused = ("0.22.0", "vllm_fused_moe")
    texts = {
        "qwen3-30b-a3b-h200": h200("qwen3-30b-a3b", "Qwen3-30B-A3B", fused),
        "gemma-4-26b-a4b-h200": h200("gemma-4-26b-a4b", "Gemma-4-26B-A4B", fused),
        "gpt-oss-120b-h200": h200("gpt-oss-120b", "GPT-OSS-120B", ("0.24.0", triton)),
        "qwen3-30b-a3b-rtxpro6000": rtx_pro_6000(),
    }
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
