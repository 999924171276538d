"""`make gpu-check`: whether the capture is exact on this GPU, and what it costs."""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

try:
    import numba  # noqa: F401
    import rich  # noqa: F401
    import torch
except ImportError as error:
    sys.exit(
        f"gpu-check: {error}. Expected PyTorch, NumPy, Numba and rich, and for the part on vLLM "
        "this checkout's clients: pip install numba rich ./clients/python ./clients/vllm"
    )

from rich.console import Console

from benchmarks.engines.gpu_check.cost import cost
from benchmarks.engines.gpu_check.curve import curves, document
from benchmarks.engines.gpu_check.exactness import exactness
from benchmarks.engines.gpu_check.faults import faults
from benchmarks.engines.gpu_check.findings import WRONG, Finding
from benchmarks.engines.gpu_check.report import COLUMNS, print_table
from benchmarks.engines.gpu_check.toy import ON_CPU, ON_GPU, ToyMoe
from benchmarks.engines.gpu_check.vllm_engine import KINDS
from benchmarks.engines.gpu_check.vllm_part import on_vllm
from benchmarks.written import FOLDER


def main(argv: list[str] | None = None) -> int:
    """Run all parts; return 0 all exact, 1 something is not, 2 wrong usage."""
    options = _options(argv)
    begun = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else COLUMNS)
    progress = Console(stderr=True, highlight=False)

    def collect(title: str, found: Iterator[Finding]) -> list[Finding]:
        kept = []
        for each in found:
            seconds = time.monotonic() - begun
            progress.print(f"[{seconds:4.0f} s] {each.what}: {each.verdict}", markup=False)
            kept.append(each)
        parts[title] = kept
        return kept

    if options.device == "cpu":
        torch.set_num_threads(1)  # the operations are small, and engines use one thread too
    parts: dict[str, list[Finding]] = {}
    with torch.inference_mode():
        model = ToyMoe(ON_CPU if options.device == "cpu" else ON_GPU, torch.device(options.device))
        collect("(a) what is captured, against the log", exactness(model, options.steps))
        collect("(a) planted faults", faults(model))
        collect("(b) a step with the capture, and without", cost(model, options.turns))
        mode, curve = curves(model, options.turns)
    del model
    if options.device == "cuda":
        torch.cuda.empty_cache()  # for the engines
    if options.vllm:
        collect("(d) real vLLM", on_vllm(options.device, options.vllm))
    about = {**_about(options.device), "took": f"{time.monotonic() - begun:,.0f} s"}
    print_table(about, parts, (mode, curve), console)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = {title: [asdict(each) for each in rows] for title, rows in parts.items()}
    written = {"about": about, "parts": found, "curve": document(mode, curve)}
    options.out.write_text(json.dumps(written, indent=1) + "\n")
    wrong = [each.what for rows in parts.values() for each in rows if each.verdict == WRONG]
    console.print(f"not exact: {', '.join(wrong)}" if wrong else "all that was tried is exact")
    return 1 if wrong else 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.gpu_check", description=__doc__
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=200, help="random steps of each kind")
    parser.add_argument("--turns", type=int, default=21, help="repetitions of each timing")
    parser.add_argument(
        "--vllm", nargs="*", choices=KINDS, default=KINDS, metavar="KIND",
        help=f"engines to try, of {', '.join(KINDS)}; without a value: skip vLLM",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu_check.json")
    options = parser.parse_args(argv)
    for name in ("steps", "turns"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected 1 or more, found {getattr(options, name)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"PyTorch {torch.__version__} finds no GPU: expected a GPU build and a driver "
            "(ELDR_VLLM_PYTHON names another interpreter); --device cpu runs the rest"
        )
    return options


def _about(device: str) -> dict[str, str]:
    about = {"PyTorch": torch.__version__, "Python": platform.python_version()}
    if device == "cuda":
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
        about["device"] = f"{torch.cuda.get_device_name()}, compute capability {capability}"
        about["driver"] = _driver()
    else:
        about["device"] = f"{platform.machine()}, no GPU: these figures say nothing about one"
    try:
        from vllm import __version__ as version
    except ImportError:
        version = "none"
    return {**about, "vLLM": version}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"
    return f"{done.stdout.splitlines()[0]}, CUDA {torch.version.cuda}"


if __name__ == "__main__":
    sys.exit(main())
