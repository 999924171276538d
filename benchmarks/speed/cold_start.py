"""How soon `eldr-server` serves: with compiled kernels on disk, with none, and compiling all first.

Each round starts it three times, each time as a new process: with an empty NUMBA_CACHE_DIR, with
the one that this start has filled, and with an empty one after `eldr warm-up`, which compiles every
kernel as each first start did when kernels were compiled on import.

Prints a table of medians and writes build/bench/cold_start.json.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.written import written

ROUNDS = 3
PROGRAM = "from eldr_service.{room} import main; main()"
KINDS = ("kernels on disk", "none", "none, and all compiled")


def start(cache: str, everything: bool = False) -> tuple[float, float]:
    """Seconds until it serves, and its processor seconds until it has ended."""
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder, "ports")
        env = {**os.environ, "NUMBA_CACHE_DIR": cache}
        flags = ["--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--state=:memory:"]
        quiet = ["--log-level=error", f"--port-file={ports}"]
        spent, began = _processor_seconds(), time.perf_counter()
        if everything:
            program = PROGRAM.format(room="cli")
            warm_up = [sys.executable, "-c", program, "warm-up", "--json"]
            subprocess.run(warm_up, env=env, check=True, stdout=subprocess.DEVNULL)
        program = PROGRAM.format(room="server")
        daemon = subprocess.Popen([sys.executable, "-c", program, *flags, *quiet], env=env)
        try:
            while not ports.exists():
                if daemon.poll() is not None:
                    raise RuntimeError(f"eldr-server ended with status {daemon.returncode}")
                time.sleep(0.01)
            serving = time.perf_counter() - began
        finally:
            daemon.terminate()
            daemon.wait()
        return serving, _processor_seconds() - spent


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = []
    for _ in range(parser.parse_args().rounds):
        with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as other:
            cold = start(empty)
            rounds.append((start(empty), cold, start(other, everything=True)))
    table = Table("start with compiled kernels", "serving after, s", "processor, s", "ratio")
    rows = []
    for place, kind in enumerate(KINDS):
        serving, processor = (
            statistics.median(one[place][figure] for one in rounds) for figure in (0, 1)
        )
        ratio = statistics.median(one[place][1] / one[0][1] for one in rounds)
        rows.append({"kernels": kind, "seconds": serving, "processor": processor, "ratio": ratio})
        table.add_row(kind, f"{serving:.1f}", f"{processor:.1f}", f"{ratio:.1f}")
    Console().print(table)
    written("cold_start", {"rows": rows})


if __name__ == "__main__":
    main()
