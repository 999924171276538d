"""`eldr simulate`: policies over recorded routing, in virtual time, on this machine."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eldr_service.cli.command import command
from eldr_service.cli.session import Session
from eldr_service.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from eldr_service.simulation.deployment import Delay
    from eldr_service.simulation.engine import Engine
    from eldr_service.simulation.study import Study
    from eldr_service.simulation.traces import Trace
    from eldr_service.simulation.traffic import Traffic

ENGINES = "Engines"
POISSON = "poisson"


def register(app: typer.Typer) -> None:
    """Add the command to `eldr` itself."""
    command(app, "simulate")(simulate)


def simulate(
    session: Session,
    activations: Annotated[
        Path,
        typer.Option(
            metavar="FILE.npz",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Recorded routing: each token's experts, prefill and decode.",
        ),
    ],
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Decode workers.")],
    cost: Annotated[
        list[str],
        typer.Option(
            metavar="NAME|FILE",
            help="What a decode step costs: qwen3-30b-a3b-h200, gpt-oss-120b-h200,"
            " gemma-4-26b-a4b-h200, qwen3-30b-a3b-rtxpro6000, or a TOML file. Several times: the"
            " engines take them in turn.",
        ),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,…]",
            help="Several times; by default locality-band and the four that see load alone.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            help="Arrivals per second; a trace is stretched to it, or left as it is without.",
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(metavar="S", help="Seconds for which requests arrive.")
    ] = 30.0,
    arrivals: Annotated[
        str,
        typer.Option(
            metavar="poisson|FILE", help="A trace: Azure's .csv, Mooncake's .jsonl or .jsonl.zst."
        ),
    ] = POISSON,
    output_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE",
            help="Of each request, or drawn from a trace; by default as the arrivals' trace says,"
            " else as recorded. Longer outputs go through the recorded tokens again.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same: the same result.")] = 0,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="So many from --seed on, for intervals.")
    ] = 1,
    calibration_fraction: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="The share of the recording on which the partition is fitted; the rest is driven.",
        ),
    ] = 0.5,
    drive_all: Annotated[
        bool,
        typer.Option("--drive-all", help="Drive the fitted part too, where the rest is too small."),
    ] = False,
    ranks: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Workers that are data-parallel ranks of one engine and step together.",
            rich_help_panel=ENGINES,
        ),
    ] = 1,
    expert_parallel: Annotated[
        bool,
        typer.Option(
            "--expert-parallel",
            help="Each expert lies on one of an engine's ranks.",
            rich_help_panel=ENGINES,
        ),
    ] = False,
    max_running: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Requests in a worker's batch.", rich_help_panel=ENGINES
        ),
    ] = 256,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Tokens that a worker's KV memory holds; no limit by default.",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    prefill: Annotated[
        str,
        typer.Option(
            metavar="MS[:US]",
            help="Milliseconds from arrival to placement, and microseconds more a prompt token.",
            rich_help_panel=ENGINES,
        ),
    ] = "0",
    transfer: Annotated[
        str,
        typer.Option(
            metavar="MS[:US]",
            help="The same from placement until the KV cache is on the worker.",
            rich_help_panel=ENGINES,
        ),
    ] = "0",
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes; by default the cores.")
    ] = None,
) -> None:
    """Drive recorded requests through the router's own code to simulated decode engines.

    Policies see the same requests. A change is against the best of the given policies that see load
    alone, below zero is better.
    """
    from eldr_service.cli.simulate_report import Report  # numba: half a second
    from eldr_service.simulation.comparison import LOAD_ONLY
    from eldr_service.simulation.deployment import Deployment
    from eldr_service.simulation.study import Study, log_to_stderr, run_study

    policies = tuple(dict.fromkeys(policy or (*LOAD_ONLY, "locality-band")))
    _check_policies(policies)
    if workers % ranks:
        raise typer.BadParameter(
            f"{workers} workers are no multiple of {ranks} ranks", param_hint="--ranks"
        )
    study = Study(
        activations=activations,
        policies=policies,
        deployment=Deployment(
            engines=_engines(
                cost,
                workers // ranks,
                ranks=ranks,
                expert_parallel=expert_parallel,
                max_running=max_running,
                kv_tokens=kv_tokens,
            ),
            prefill=_delay(prefill, "--prefill"),
            transfer=_delay(transfer, "--transfer"),
        ),
        traffic=_traffic(arrivals, rate, duration, output_tokens),
        seeds=tuple(range(seed, seed + seeds)),
        calibration_fraction=calibration_fraction,
        drive_all=drive_all,
    )
    log_to_stderr()
    try:
        with _progress(session, study) as done:
            runs = run_study(study, jobs or os.cpu_count() or 1, done)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    report = Report(study, arrivals, output_tokens, runs)
    for caution in report.cautions():
        session.note(caution, "yellow")
    session.answer(report.document(), *report.tables())


def _check_policies(policies: tuple[str, ...]) -> None:
    from eldr_service.policies.registry import create, parse

    for policy in policies:
        try:
            create(*parse(policy))
        except InvalidArgumentError as error:
            raise typer.BadParameter(f"{policy}: {error}", param_hint="--policy") from error


def _engines(costs: list[str], number: int, **how: Any) -> tuple["Engine", ...]:
    from eldr_service.simulation.cost import load_cost
    from eldr_service.simulation.engine import Engine

    try:
        kinds = [Engine(load_cost(cost), **how) for cost in costs]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cost") from error
    return tuple(kinds[i % len(kinds)] for i in range(number))


def _traffic(
    arrivals: str, rate: float | None, duration: float, output_tokens: str | None
) -> "Traffic":
    from eldr_service.simulation.traffic import Traffic

    output: int | Trace | None = None
    if output_tokens is not None:
        number = output_tokens.lstrip("-").isdecimal()
        output = int(output_tokens) if number else _trace(output_tokens, "--output-tokens")
    trace = None if arrivals == POISSON else _trace(arrivals, "--arrivals")
    try:
        return Traffic(duration, rate, trace, output)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _trace(path: str, option: str) -> "Trace":
    from eldr_service.simulation.traces import Trace

    try:
        return Trace.load(path)
    except (OSError, ValueError) as error:
        what = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise typer.BadParameter(what, param_hint=option) from error


def _delay(text: str, option: str) -> "Delay":
    from eldr_service.simulation.deployment import Delay

    fixed, _, each = text.partition(":")
    try:
        return Delay(float(fixed) * 1e-3, float(each or 0) * 1e-6)
    except ValueError as error:
        hint = f"expected MS or MS:US, such as 50:20, found {text!r}"
        raise typer.BadParameter(hint, param_hint=option) from error


@contextmanager
def _progress(session: Session, study: "Study") -> Iterator[Callable[[], None]]:
    """A bar on stderr where somebody looks."""
    from eldr_service.simulation.study import steps

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=session.err,
        transient=True,
        disable=not session.err.is_terminal,
    ) as bar:
        task = bar.add_task("simulating", total=steps(study))
        yield lambda: bar.advance(task)
