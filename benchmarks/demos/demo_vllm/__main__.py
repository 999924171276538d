"""`make demo-vllm`: real vLLM engines, the policies in turn, measured by a client."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import grpc
from rich.console import Console

from benchmarks.demos.demo_vllm import workload
from benchmarks.demos.demo_vllm.engines import CHECKOUT
from benchmarks.demos.demo_vllm.processes import DemoError
from benchmarks.demos.demo_vllm.report import print_report
from benchmarks.demos.demo_vllm.rig import Rig, Say, existing_rig, own_rig
from benchmarks.demos.demo_vllm.study import (
    IN_FLIGHT,
    POLICIES,
    SHORTEST_SECONDS,
    Load,
    study,
)
from benchmarks.demos.demo_vllm.verdict import Findings

WORKLOADS = {"ten kinds": workload.MIXED, "four kinds (the upper end)": workload.FEW}
FIT_SECONDS = 10.0
"""Approximate time to prefill the prompts that a partition is fitted on."""
BEYOND_SECONDS = 0.3
"""Approximate time after a block's end until nothing is booked."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return 0 done, 1 failed, 2 wrong usage."""
    options = _options(argv)
    console = Console(stderr=True, highlight=False)
    begun = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - begun:4.0f} s] {text}", markup=False, soft_wrap=True)

    try:
        for part in ("fit", "serve"):  # before engines need the processors
            say(f"reading the texts: {part}")
            workload.prompts(workload.MIXED, part)
        with (
            tempfile.TemporaryDirectory(prefix="eldr-demo-vllm-") as folder,
            _rig(options, Path(folder), say) as rig,
        ):
            findings = _studies(options, rig, begun, say)
            decode = len(rig.decode)
    except (DemoError, OSError, ValueError) as error:
        console.print(f"demo-vllm: {error}", style="red", markup=False)
        return 1
    except grpc.RpcError as error:
        console.print(f"demo-vllm: {error.details()}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("demo-vllm: interrupted")
        return 130
    seconds = time.monotonic() - begun
    document = {
        "decode_engines": decode,
        "expert_mb": None if options.prefill else options.expert_mb,
        "seed": options.seed,
        "seconds": seconds,
        "workloads": [found.document() for found in findings],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    width = 162 if options.vllm_router else 130
    out = Console(width=None if sys.stdout.isatty() else width)
    for found in findings:
        print_report(found, decode, out)
    out.print(f"This took {seconds / 60:.1f} minutes. All figures: {options.json}", style="dim")
    return 0


def _rig(options: argparse.Namespace, folder: Path, say: Say):
    if options.prefill:
        engines = options.prefill, options.decode
        return existing_rig(folder, options.router, *engines, options.vllm_router, say)
    record = options.record and options.record.absolute() / "engines"
    return own_rig(
        folder, options.decode_engines, options.expert_mb, options.vllm_router, record, say
    )


def _studies(options: argparse.Namespace, rig: Rig, begun: float, say: Say) -> list[Findings]:
    kinds = list(WORKLOADS.items())[: options.workloads]
    findings = []
    for number, (name, some) in enumerate(kinds):
        # The remaining time, spread over the remaining workloads.
        left = options.minutes * 60 - (time.monotonic() - begun)
        left -= FIT_SECONDS * (len(kinds) - number)
        segments = (len(kinds) - number) * options.blocks * (len(POLICIES) + len(rig.peers))
        seconds = max(left / segments - BEYOND_SECONDS, SHORTEST_SECONDS)
        done = study(
            rig,
            name,
            some,
            Load(IN_FLIGHT * len(rig.decode), seconds),
            options.blocks,
            options.fit_prompts,
            options.seed,
            say,
        )
        say(f"{name}: bootstrapping the intervals")
        findings.append(Findings(done))
        if options.record:
            blocks = [{p: s.document() for p, s in block.items()} for block in done.blocks]
            options.record.mkdir(parents=True, exist_ok=True)
            said = {"in_flight": done.load.in_flight, "blocks": blocks}
            (options.record / f"blocks-{number}.json").write_text(json.dumps(said))
    return findings


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demos.demo_vllm",
        description="ELDR on real vLLM engines: on its own on this machine, or on running ones.",
    )
    parser.add_argument(
        "--long", action="store_true", help="three times as long, for narrower intervals"
    )
    parser.add_argument(
        "--decode-engines", type=int, default=4, help="its own decode engines; default 4"
    )
    parser.add_argument(
        "--expert-mb", type=float, default=12.6, help="MB per expert in float32; default 12.6"
    )
    parser.add_argument(
        "--blocks", type=int, help="paired blocks per workload; default 20, long 60"
    )
    parser.add_argument("--minutes", type=float, help="target duration; default 15, long 50")
    parser.add_argument(
        "--workloads", type=int, choices=(1, 2), default=2, help="1: ten kinds only"
    )
    parser.add_argument(
        "--fit-prompts", type=int, default=160, help="prompts to fit on; default 160"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--vllm-router",
        metavar="COMMAND",
        help="also measure this router, with the same requests and engines"
        " (pip install vllm-router)",
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        help="record its own engines, for benchmarks.engines.simulated_blocks",
    )
    parser.add_argument("--json", type=Path, default=CHECKOUT / "build" / "demo_vllm.json")
    there = parser.add_argument_group("engines already running, with ELDR's connector")
    there.add_argument("--prefill", nargs="+", metavar="URL", default=[])
    there.add_argument("--decode", nargs="+", metavar="URL", default=[])
    there.add_argument("--router", metavar="HOST:PORT", default="127.0.0.1:50051")
    options = parser.parse_args(argv)
    if options.record and options.prefill:
        parser.error(
            "--record is only for its own engines; --prefill engines record where configured"
        )
    if options.vllm_router and not shutil.which(options.vllm_router):
        parser.error(f"--vllm-router: expected a command, found {options.vllm_router}")
    if bool(options.prefill) != bool(options.decode):
        parser.error("--prefill and --decode go together")
    for name in ("decode_engines", "blocks"):
        value = getattr(options, name)
        if value is not None and value < 2:
            parser.error(f"--{name.replace('_', '-')}: expected 2 or more, found {value}")
    options.blocks = options.blocks or (60 if options.long else 20)
    options.minutes = options.minutes or (50.0 if options.long else 15.0)
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, which ends the children
    sys.exit(main())
