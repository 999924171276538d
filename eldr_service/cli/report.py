"""`eldr report`: what ELDR would gain on some traffic, as a page and a PDF."""

import importlib.util
import os
import shlex
import time
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TextColumn, TimeRemainingColumn

from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.progress import simulating
from eldr_service.cli.report_points import PointOptions
from eldr_service.cli.session import Session
from eldr_service.cli.simulation_options import (
    COST,
    POLICY_HELP,
    SimulationOptions,
    check_policies,
    recording_notes,
)
from eldr_service.cli.tables import facts, span

if TYPE_CHECKING:
    from eldr_service.lab.recordings import Recording
    from eldr_service.lab.reports.plan import Plan
    from eldr_service.lab.simulation.deployment import Deployment

NEEDED = ("matplotlib", "jinja2", "reportlab", "pypdf")
RESIDENCES = 10  # requests that come in the default duration, for each that is in flight
QUICK_RESIDENCES = 4


def register(app: typer.Typer) -> None:
    """Add the command to `eldr` itself."""
    command(app, "report")(report)


def report(
    session: Session,
    options: SimulationOptions,
    points: PointOptions,
    activations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz|DIR",
            exists=True,
            readable=True,
            help="Recorded routing of your traffic, a file or engines' recordings; by default the"
            " sample that comes with ELDR.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Decode workers.")] = 16,
    cost: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE|DIR", help="As of eldr simulate."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,…]",
            help=POLICY_HELP,
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Seconds for which requests arrive; by default about ten times as long as one"
            " takes.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="So many from --seed on; by default 5, quick 3."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            min=0.000001,
            help="Median TPOT for which workers are counted; by default what the best policy that"
            " sees load alone reaches.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the page.", dir_okay=False)
    ] = None,
    pdf: Annotated[
        Path | None, typer.Option(metavar="FILE.pdf", help="Write a PDF.", dir_okay=False)
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes; by default the cores.")
    ] = None,
) -> None:
    """Tell what ELDR would gain on your traffic: one HTML page that needs no network, and a PDF.

    Recorded requests are simulated under every policy, along sweeps of rate, workers and settings.
    Without --out, --pdf and --json it writes eldr-report.html.
    """
    _check_extra()
    from eldr_service.lab.reports.findings import find
    from eldr_service.lab.reports.plan import make_plan
    from eldr_service.lab.reports.report import make_report
    from eldr_service.lab.simulation.contender import BY_DEFAULT
    from eldr_service.lab.simulation.study import Study, load_recorded, log_to_stderr

    if out is None and pdf is None and not session.json:
        out = Path("eldr-report.html")
    for path in filter(None, (out, pdf)):
        if not path.parent.is_dir():
            raise CommandError(f"{path}: there is no folder {path.parent}")
    policies = tuple(dict.fromkeys(policy or BY_DEFAULT))
    check_policies(policies)
    costs = cost or [COST]
    seeds = seeds or (3 if points.quick else 5)
    file = activations or Path(str(files("eldr_service.lab.simulation") / "sample.npz"))
    log_to_stderr()
    try:
        for note in recording_notes((activations, options.arrivals), costs):
            session.note(note)
        recording = load_recorded(file)
        deployment = options.deployment(costs, workers)
        rate, seconds = _load(options, recording, deployment, duration, points.quick)
        base = Study(
            activations=file,
            policies=policies,
            deployment=deployment,
            traffic=options.traffic(rate, seconds),
            seeds=tuple(range(options.seed, options.seed + seeds)),
            calibration_fraction=options.calibration_fraction,
            drive_all=options.drive_all,
            shift_s=options.shift_at,
        )
        plan = make_plan(base, recording, options.kinds(costs), points.points(), points.wanted())
        processes = jobs or os.cpu_count() or 1
        session.note(f"{plan.runs():,} runs, {_estimate(plan, processes)} on {processes} cores")
        with simulating(session, plan.runs(), TextColumn("left"), TimeRemainingColumn()) as done:
            findings = find(plan, processes, done)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    def again(sweep: str) -> str:
        words = [
            *(("--activations", str(activations)) if activations else ()),
            *(word for name in policies for word in ("--policy", name) if policy),
            *("--workers", str(workers)),
            *(word for name in costs for word in ("--cost", name)),
            *(("--rate", f"{rate:g}") if rate else ()),
            *("--duration", f"{seconds:g}", "--seeds", str(seeds)),
            *_written(options),
            *(("--target", f"{target:g}") if target else ()),
            *points.words(),
        ]
        chosen = points.figure or [] if sweep == "all" else [sweep or "none"]
        words += [word for name in chosen for word in ("--figure", name)]
        return shlex.join(["eldr", "report", *words])

    made = make_report(
        findings,
        again,
        name=_name(activations),
        sample=activations is None,
        target_ms=target,
    )
    written = []
    if out:
        from eldr_service.lab.reports.page import page

        out.write_text(page(made), "utf-8")
        written.append(("page", out))
    if pdf:
        from eldr_service.lab.reports.paper import paper

        pdf.write_bytes(paper(made))
        written.append(("PDF", pdf))
    tiles = [(tile.label, f"{tile.number}  {'; '.join(tile.lines)}") for tile in made.tiles]
    session.answer(made.document, made.verdict, "", facts([*tiles, *written]))


def _name(activations: Path | None) -> str:
    """What a reader of the report knows the recording by."""
    from eldr_service.lab.recordings import read_engine_files

    if activations is None:
        return "ELDR's sample"
    if activations.is_dir():
        return f"recorded traffic of {read_engine_files(activations).model}"
    return activations.stem


def _check_extra() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"a report needs {', '.join(missing)}", f"pip install {' '.join(missing)}"
        )


def _load(
    options: SimulationOptions,
    recording: "Recording",
    deployment: "Deployment",
    duration: float | None,
    quick: bool,
) -> tuple[float | None, float]:
    """Arrivals per second, None for a trace's own, and for how many seconds."""
    from eldr_service.lab.reports.plan import default_rate, in_flight, mean_output, rounded

    output, trace = options.output(), options.trace()
    if output is None and trace is not None:
        output = trace
    tokens = mean_output(recording, output)
    share = 1.0 if options.drive_all else 1 - options.calibration_fraction
    driven = int(recording.num_requests * share)
    rate = options.offered(deployment.workers)
    if trace is not None:
        offered = rate or trace.rate_per_s
    else:
        rate = offered = rate or default_rate(recording, deployment, tokens, driven)
    if duration is None:
        residences = QUICK_RESIDENCES if quick else RESIDENCES
        requests = max(200, residences * in_flight(deployment, driven))
        duration = rounded(requests / offered)
    return rate, duration


def _estimate(plan: "Plan", processes: int) -> str:
    """About how long the runs take, by one of them."""
    from eldr_service.lab.simulation.study import run_study

    base = plan.base
    once = replace(base, seeds=base.seeds[:1], policies=base.policies[-1:])
    run_study(once)  # not shorter: a trace may have no arrival in a part of the duration
    start = time.perf_counter()  # its kernels are compiled
    run_study(once)
    seconds = (time.perf_counter() - start) * plan.runs() / processes
    return f"about {span(max(1.0, seconds))}"


def _written(options: SimulationOptions) -> list[str]:
    """The options that are not at their defaults, but for the rate, as they are written."""
    words: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name == "rate" or value == option.default:
            continue
        name = f"--{option.name.replace('_', '-')}"
        words += [name] if value is True else [name, str(value)]
    return words
