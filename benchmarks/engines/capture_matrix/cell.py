"""A cell of the matrix: engines in child processes, and their outcome."""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.demos.demo_vllm.processes import free_port
from benchmarks.engines.capture_matrix import interpreted
from benchmarks.engines.capture_matrix.comparison import EXACT, NONE, summary
from benchmarks.engines.capture_matrix.configurations import Configuration

CHECKOUT = Path(__file__).parents[3]
PATHS = [
    CHECKOUT / part
    for part in ("tests/vllm", "tests/support", "clients/vllm", "clients/python", "")
]
TIMEOUT = 600.0
_ASIDE = re.compile(
    r"ELDR (?:steps aside \([^)]*\)|captures nothing here): (.*?)(?:\. vLLM serves on\b.*)?$"
)
_ERROR = re.compile(
    r"^(?:\([^)]*\) )?(?:ERROR [^]]*\] )?(?:\w+\.)*(\w*(?:Error|Exception|Interrupt)\b.*)$"
)
# pydantic gives the cause in its second line.
_VALIDATION = re.compile(r"(?<=ValidationError: )\d+ validation errors? for .*\n\s*")


@dataclass(frozen=True)
class Outcome:
    """The result of a cell.

    `verdict` is "exact", "refused", "differs", "vLLM fails" (also without the shim) or "fails"
    (only with the shim); `why` gives the reason.
    """

    verdict: str
    why: str
    seconds: float
    figures: dict[str, Any]

    @property
    def good(self) -> bool:
        return self.verdict == EXACT

    def __str__(self) -> str:
        return self.verdict + (f": {self.why}" if self.why else "")


class Nursery:
    """A nursery's process, as a context manager, for one interpreter and one environment.

    Attributes
    ----------
    version : str
        Its vLLM's.
    """

    def __init__(self, python: str, env: dict[str, str]) -> None:
        paths = [*map(str, PATHS), os.environ.get("PYTHONPATH", "")]
        if "TRITON_INTERPRET" in env:
            paths.append(str(interpreted.prepare(python)))
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.engines.capture_matrix.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
                **env,
            },
        )

    def __enter__(self) -> "Nursery":
        self.version = self._answer()["version"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(
        self,
        architecture: str,
        configuration: Configuration,
        timeout: float = TIMEOUT,
    ) -> Outcome:
        """Run one cell; if its engine fails, run it again without the shim."""
        start = time.monotonic()
        results, output = self._engines(architecture, configuration, timeout, shim=True)
        if results is None:
            served, without = self._engines(architecture, configuration, timeout, shim=False)
            verdict, said = ("vLLM fails", without) if served is None else ("fails", output)
            return Outcome(verdict, _cause(said), round(time.monotonic() - start, 1), {})
        tallies: dict[str, Counter] = {}
        for result in results:
            for what, tally in result.pop("tallies").items():
                tallies.setdefault(what, Counter()).update(tally)
        figures = {key: sum(result[key] for result in results) for key in results[0]}
        figures["tallies"] = {what: dict(tally) for what, tally in tallies.items()}
        aside = next((found[1] for found in map(_ASIDE.search, output.splitlines()) if found), "")
        verdict, why = summary(tallies), ""
        if aside and all(set(tally) == {NONE} for tally in tallies.values()):
            verdict, why = "refused", aside
        elif verdict != EXACT:
            verdict, why = "differs", verdict + (f" ({aside})" if aside else "")
        elif configuration.preempts and not figures["preempted"]:
            verdict, why = "differs", "nothing was preempted"
        return Outcome(verdict, why, round(time.monotonic() - start, 1), figures)

    def _answer(self) -> dict[str, Any]:
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError("the nursery has ended; its output above has the reason")

    def _engines(
        self, architecture: str, configuration: Configuration, timeout: float, shim: bool
    ) -> tuple[list[dict[str, Any]] | None, str]:
        """The ranks' results, or None if one of them has none, and all their output."""
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            ranks = [
                {
                    "cell": {
                        "architecture": architecture,
                        "options": configuration.options,
                        "prompts": configuration.prompts,
                        "shim": shim,
                        "rank": rank,
                    },
                    "env": _data_parallel(rank, configuration.ranks, port),
                    "log": f"{folder}/{rank}.log",
                }
                for rank in range(configuration.ranks)
            ]
            print(json.dumps({"ranks": ranks, "timeout": timeout}), file=self._process.stdin)
            self._process.stdin.flush()
            seconds = self._answer()["seconds"]
            printed = [Path(rank["log"]).read_text(errors="replace") for rank in ranks]
        if seconds >= timeout:
            printed.append(f"TimeoutError: not done within {timeout:.0f} s")
        if keep := os.environ.get("ELDR_MATRIX_LOGS"):
            name = f"{architecture}-{time.strftime('%H%M%S')}{'' if shim else '-without'}.log"
            (Path(keep) / name).write_text("\n".join(printed))
        output = "\n".join(printed)
        results = [json.loads(found) for found in re.findall(r"^RESULT (.*)$", output, re.M)]
        return (results if len(results) == len(ranks) else None), output


class Nurseries(contextlib.ExitStack):
    """One nursery per environment requested, until the end of the context."""

    def __init__(self, python: str) -> None:
        super().__init__()
        self._python = python
        self._there: dict[frozenset[tuple[str, str]], Nursery] = {}

    def of(self, configuration: Configuration) -> Nursery:
        """The nursery whose engines have the configuration's environment."""
        key = frozenset(configuration.env.items())
        if key not in self._there:
            self._there[key] = self.enter_context(Nursery(self._python, configuration.env))
        return self._there[key]


def _data_parallel(rank: int, ranks: int, port: int) -> dict[str, str]:
    if ranks == 1:
        return {}
    return {
        "VLLM_DP_RANK": str(rank),
        "VLLM_DP_SIZE": str(ranks),
        "VLLM_DP_MASTER_IP": "127.0.0.1",
        "VLLM_DP_MASTER_PORT": str(port),
        "ELDR_CPU_COLLECTIVES": "1",  # for step_log.py: vLLM lacks them
    }


def _cause(output: str) -> str:
    """What ended an engine: the first error that one of its processes logged, else the last one.

    Errors after the first come from the processes that waited for the one that failed.
    """
    lines = _VALIDATION.sub("", output).splitlines()
    found = [(line, said[1]) for line in lines if (said := _ERROR.match(line))]
    logged = [error for line, error in found if " ERROR " in line]
    cause = (logged[:1] or [error for _, error in found[-1:]] or ["no result"])[0]
    return cause.partition(" [type=")[0][:200]
