"""The same on real vLLM, if one is installed that runs on the device."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.gpu_check.findings import MEASURED, WRONG, Finding, compared, skipped
from benchmarks.engines.gpu_check.vllm_engine import DEFAULT, EAGER, KINDS, WITHOUT
from benchmarks.speed.paired import RESAMPLES

CHECKOUT = Path(__file__).parents[3]
PATHS = [CHECKOUT, *(CHECKOUT / p for p in ("tests/vllm", "clients/vllm", "clients/python"))]
SECONDS = {"cuda": 150, "cpu": 600}
"""Time limit per engine; on a CPU compiling its model takes long."""
ALIKE = 0.99
"""Share of picks that eager and default must have in common; near ties may go either way."""
TITLES = {EAGER: "vLLM, eager", DEFAULT: "vLLM as it starts by default"}


def no_vllm(device: str) -> str:
    """Why vLLM cannot be tried; empty if it can."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return "no vLLM is installed beside this PyTorch"
    from vllm.platforms import current_platform

    if current_platform.device_type != device:
        return f"the vLLM here is built for {current_platform.device_type}, not for {device}"
    return ""


def on_vllm(device: str, kinds: Sequence[str] = KINDS) -> Iterator[Finding]:
    """Check an engine of each kind, one after another."""
    if why := no_vllm(device):
        yield skipped("vLLM", why)
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="eldr-gpu-check-") as folder:
        environment = _environment(device)
        _build_model(Path(folder) / "model", environment)
        for kind in kinds:
            try:
                found[kind] = _engine(kind, Path(folder) / kind, environment, SECONDS[device])
            except RuntimeError as error:
                yield Finding(TITLES.get(kind, f"vLLM {kind} ELDR"), str(error), WRONG)
                continue
            if kind != WITHOUT:
                yield _exact(kind, found[kind])
    if {EAGER, DEFAULT} <= found.keys():
        yield _alike(found[EAGER]["counts"], found[DEFAULT]["counts"])
    if {DEFAULT, WITHOUT} <= found.keys():
        yield _cost(found[DEFAULT]["step_us"], found[WITHOUT]["step_us"])


def _environment(device: str) -> dict[str, str]:
    path = os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1"}
    environment.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if device == "cpu":
        environment |= {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }
    return environment


def _build_model(folder: Path, environment: dict[str, str]) -> None:
    code = "import sys, pathlib, tiny_model; tiny_model.build(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=True)


def _engine(kind: str, folder: Path, environment: dict[str, str], seconds: int) -> dict[str, Any]:
    """What the engine's process found; RuntimeError with the end of its output if it failed."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.engines.gpu_check.vllm_engine", kind, str(folder)]
    with (folder / "output").open("w") as output:
        try:
            code = subprocess.run(
                command, env=environment, stdout=output, stderr=output, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the engine did not finish within {seconds} s") from None
    if code:
        lines = (folder / "output").read_text().split("\n")
        said = [line.strip() for line in lines if "Error" in line] or lines[-3:]
        print("\n".join(lines[-40:]), file=sys.stderr)
        raise RuntimeError(f"the engine failed: {said[-1][:200]}")
    return json.loads((folder / "found.json").read_text())


def _exact(kind: str, found: dict[str, Any]) -> Finding:
    if not found["logged"]:
        return skipped(TITLES[kind], "this MoE kernel bypasses the router: there is no log")
    return compared(
        TITLES[kind],
        f"{found['exact']} of {found['prompts']} prompts as logged, "
        f"{found['cached_tokens']:,} tokens from the prefix cache",
        found["exact"] == found["prompts"] and found["cached_tokens"] > 0,
        **{name: found[name] for name in ("vllm", "prompts", "exact", "cached_tokens")},
    )


def _alike(eager: list[Any], default: list[Any]) -> Finding:
    """Picks of the prompts' tokens that differ between two engines."""
    name = "vLLM, default against eager"
    if None in eager or None in default:
        return Finding(name, "an engine left prompts unknown", WRONG)
    pairs = [(np.array(a), np.array(b)) for a, b in zip(eager, default, strict=True)]
    moved = sum(int(abs(a - b).sum()) // 2 for a, b in pairs)
    picks = sum(int(a.sum()) for a, _ in pairs)
    same = sum(bool((a == b).all()) for a, b in pairs)
    return compared(
        name,
        f"{same} of {len(pairs)} prompts equal, {moved} of {picks:,} picks moved",
        1 - moved / picks >= ALIKE,
        prompts=len(pairs),
        equal=same,
        picks=picks,
        moved=moved,
    )


def _cost(ours: list[float], theirs: list[float]) -> Finding:
    """Two engines one after another: not paired, so the bootstrap draws from each separately."""
    rng = np.random.default_rng(0)

    def medians(values: list[float]) -> Any:
        drawn = rng.integers(len(values), size=(RESAMPLES, len(values)))
        return np.median(np.array(values)[drawn], axis=1)

    low, high = np.percentile(medians(ours) / medians(theirs), [2.5, 97.5])
    a, b = float(np.median(ours)), float(np.median(theirs))
    return Finding(
        "vLLM, a decode step of 16 (two engines)",
        f"{a:,.0f} us against {b:,.0f} without: x {a / b:.3f} ({low:.3f} to {high:.3f})",
        MEASURED,
        {"with_us": a, "without_us": b, "ratio": a / b, "low": float(low), "high": float(high)},
    )
