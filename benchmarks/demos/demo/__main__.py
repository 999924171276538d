"""`make demo`: fit on one half, drive the other under every policy, report the results."""

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.demos.demo import data
from benchmarks.demos.demo.chance import SEEDS, other_seeds
from benchmarks.demos.demo.document import document
from benchmarks.demos.demo.driver import Driver
from benchmarks.demos.demo.plain import plain_run
from benchmarks.demos.demo.processes import CHECKOUT, DemoError, running_daemon, running_engines
from benchmarks.demos.demo.report import print_report
from benchmarks.demos.demo.result import Result
from benchmarks.demos.demo.settings import settings
from benchmarks.demos.demo.verdict import DEFAULT, compared
from benchmarks.demos.demo.workload import Workload
from eldr_service.core.errors import did_you_mean
from eldr_service.core.partition import Partition
from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.contender import names
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.policies.registry import installed


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return 0 done, 1 failed or the plain loop disagrees, 2 wrong usage."""
    options = _options(argv)
    console = Console(stderr=True)
    with ExitStack() as stack:
        try:
            result, live = _demo(options, console, stack)
        except (DemoError, OSError, ValueError) as error:
            console.print(f"demo: {error}", style="red", markup=False)
            return 1
        except grpc.RpcError as error:
            console.print(f"demo: {error.details()}", style="red", markup=False)
            return 1
        except KeyboardInterrupt:
            console.print("demo: interrupted")
            return 130
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document(result), indent=1) + "\n")
        report = Console(width=None if sys.stdout.isatty() else 100)
        print_report(result, report)
        if options.keep:
            _keep(result, live, report)
    return 1 if result.differing else 0


@dataclass(frozen=True)
class _Live:
    """Processes that run until the demo ends."""

    page: str
    driver: Driver


def _keep(result: Result, live: _Live, console: Console) -> None:
    """Continue with the subject's requests until Ctrl-C, in real time."""
    console.print(
        f"\nIts page: {live.page}, with {result.subject} at work until Ctrl-C", soft_wrap=True
    )
    try:
        while True:
            live.driver.drive(
                result.settings[result.subject], lambda: time.sleep(1 / result.work.rate)
            )
    except KeyboardInterrupt:
        return


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demos.demo",
        description="ELDR on recorded routing, in virtual time.",
    )
    parser.add_argument(
        "--data",
        metavar=f"FILE.npz|NAME|{data.SAMPLE}",
        help="recording with tokens; by default the largest in ../shared/data/activations, else the"
        " sample that ships with the project",
    )
    parser.add_argument(
        "--policy",
        default=DEFAULT,
        metavar="NAME",
        help=f"the policy that the verdict is about; default {DEFAULT}",
    )
    parser.add_argument("--workers", type=int, help="default 4 to 16, by the data's size")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="arrivals per virtual second; by default half of the recordings are in flight",
    )
    parser.add_argument(
        "--requests", type=int, default=1200, help="approximate number; default 1200"
    )
    parser.add_argument(
        "--cost", choices=built_in_costs(), help="step cost; by default the nearest to the model"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of halves and arrivals; default 0"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep daemon, page and engines running until Ctrl-C"
    )
    parser.add_argument("--json", type=Path, default=CHECKOUT / "build" / "demo.json")
    options = parser.parse_args(argv)
    if options.policy not in (names := installed()):
        meant = did_you_mean(options.policy, names)
        parser.error(f"--policy: expected one of {', '.join(names)}, found {options.policy}{meant}")
    if options.workers is not None and options.workers < 2:
        parser.error(f"--workers: expected 2 or more, found {options.workers}")
    if options.rate is not None and not options.rate > 0:
        parser.error(f"--rate: expected more than 0, found {options.rate:g}")
    if options.requests < 10:
        parser.error(f"--requests: expected 10 or more, found {options.requests}")
    if options.seed < 0:
        parser.error(f"--seed: expected 0 or more, found {options.seed}")
    return options


def _demo(options: argparse.Namespace, console: Console, stack: ExitStack) -> tuple[Result, _Live]:
    """Run the whole demo; contexts entered into `stack` stay open."""
    begun = time.monotonic()
    policies = compared(options.policy)
    name = data.located(options.data or data.default_name())
    known = data.known(name)
    cost = built_in_costs()[options.cost or known.cost]
    work = Workload.make(
        data.load(name),
        cost,
        workers=options.workers,
        rate=options.rate,
        requests=options.requests,
        seed=options.seed,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eldr-demo-")))
    with Progress(*columns, console=console) as progress:
        partition = _fit(known.model, work, progress)
        task = progress.add_task("fit and tune bands", total=len(policies))
        ready = partial(progress.advance, task)
        rows = settings(policies, work, known.model, partition, ready)
        called = names(rows)
        starting = progress.add_task("start daemon and engines", total=2)
        addresses = stack.enter_context(running_daemon(scratch))
        daemon = addresses["grpc"]
        progress.advance(starting)
        engines = stack.enter_context(
            running_engines(scratch, daemon, known.model, name, cost.name, work.oracle)
        )
        driver = stack.enter_context(closing(Driver(daemon, engines, known.model, work)))
        progress.advance(starting)
        runs = {}
        for row, setting in rows.items():
            task = progress.add_task(f"drive {called[row]}", total=len(work.arrivals))
            runs[row] = driver.drive(setting, partial(progress.advance, task))
        task = progress.add_task("the same in a plain loop", total=len(rows))
        plain = {}
        for row, setting in rows.items():
            plain[row] = plain_run(setting, work)
            progress.advance(task)
        task = progress.add_task("the same with other seeds", total=SEEDS)
        others = other_seeds(work, known.model, options.policy, partial(progress.advance, task))
    result = Result(
        name=name,
        subject=options.policy,
        work=work,
        settings=rows,
        runs=runs,
        plain=plain,
        other_seeds=others,
        seconds=time.monotonic() - begun,
    )
    return result, _Live(f"http://{addresses['http']}/", driver)


def _fit(model: str, work: Workload, progress: Progress) -> Partition:
    task = progress.add_task(f"fit {work.workers} centroids", total=None)
    partition = fit_partition(
        model,
        work.recording.prefill_counts()[work.fitted],
        work.recording.geometry,
        n_clusters=work.workers,
        progress=lambda done, most, inertia: progress.update(task, completed=done, total=most),
    )
    done = progress.tasks[task].completed
    progress.update(task, total=done)  # it may converge before the last iteration
    return partition


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, which ends the children
    sys.exit(main())
