"""`eldr report`: what ELDR would gain on given traffic, as a page and a PDF."""

import importlib.util
import os
import shlex
import time
from dataclasses import fields, replace
from datetime import UTC, datetime
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
    from eldr_service.lab.reports.load import Load
    from eldr_service.lab.reports.plan import Plan

NEEDED = ("jinja2",)
RESIDENCES = 10  # default duration, in mean residence times of a request
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
            help="Recorded routing of your traffic, a file or engines' recordings; by default a"
            " sample that comes with ELDR.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Decode workers; by default 16, or fewer for a small recording.",
        ),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE|DIR", help="As for eldr simulate."),
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
            help="Seconds during which requests arrive; by default about ten times what one request"
            " takes.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of seeds, from --seed on; by default 5, the fewest that decide; quick: 3.",
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            min=0.000001,
            help="Median TPOT to size the fleet for; by default that of the best policy that sees"
            " load alone.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the page.", dir_okay=False)
    ] = None,
    pdf: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pdf", help="Print the page with Chromium or Chrome.", dir_okay=False
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes; by default one per core.")
    ] = None,
) -> None:
    """Report what ELDR would gain on your traffic: one self-contained HTML page, and a PDF.

    Recorded requests are simulated under every policy, in sweeps over rate, workers and settings.
    With too few seeds or requests, as with --quick, the report is undecided and says what would
    decide. Without --out, --pdf and --json it writes eldr-report.html.
    """
    _check_extra()
    from eldr_service.lab.reports.findings import find
    from eldr_service.lab.reports.page import page
    from eldr_service.lab.reports.paper import browser, paper
    from eldr_service.lab.reports.plan import make_plan
    from eldr_service.lab.reports.report import make_report
    from eldr_service.lab.simulation.contender import BY_DEFAULT
    from eldr_service.lab.simulation.study import Study, load_recorded, log_to_stderr

    program = browser()
    if pdf and program is None:
        raise CommandError(
            "a PDF needs Chromium or Chrome on the PATH, and neither is there",
            "write the page with --out and print it from a browser",
        )
    if out is None and pdf is None and not session.json:
        out = Path("eldr-report.html")
    for path in filter(None, (out, pdf)):
        if not path.parent.is_dir():
            raise CommandError(f"{path}: no folder {path.parent}")
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
        load = _load(options, recording, costs, workers, duration, points.quick)
        if load.note:
            session.note(load.note)
        base = Study(
            activations=file,
            policies=policies,
            deployment=load.deployment,
            traffic=options.traffic(load.rate_per_s, load.duration_s),
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

    def again(seeds: int, times: float, workers: int, whole: bool = False) -> str:
        same = workers == load.deployment.workers  # another number of workers has another rate
        rate = load.rate_per_s if same else None
        words = [
            *(("--activations", _file(activations)) if activations else ()),
            *(word for name in policies for word in ("--policy", name) if policy),
            *("--workers", str(workers)),
            *(word for name in costs for word in ("--cost", _file(name))),
            *(("--rate", f"{rate:g}") if rate else ()),
            *(("--duration", f"{load.duration_s * times:.3g}") if same else ()),
            *("--seeds", str(seeds)),
            *_written(options),
            *(("--target", f"{target:g}") if target else ()),
            *points.words(quick=not whole),
            *(word for name in points.figure or () for word in ("--figure", name)),
        ]
        return shlex.join(["eldr", "report", *words])

    made = make_report(
        findings,
        name=_name(activations),
        made=datetime.now(UTC),
        command=again(seeds, 1.0, load.deployment.workers),
        decide=lambda seeds, times, workers: again(seeds, times, workers, whole=True),
        sample=activations is None,
        target_ms=target,
        note=load.note,
    )
    html, written = page(made), []
    if out:
        out.write_text(html, "utf-8")
        written.append(("page", out))
    if pdf and program:
        try:
            pdf.write_bytes(paper(html, program))
        except OSError as error:
            raise CommandError(str(error), "print the page from a browser") from error
        written.append(("PDF", pdf))
    first = made.opening
    tiles = [(tile.label, f"{tile.number}  {'; '.join(tile.lines)}") for tile in first.tiles]
    decide = [("to decide", first.decide)] if first.decide else []
    said = " ".join((first.advice, *first.more))
    session.answer(made.document, said, "", facts([*tiles, *first.caveats, *decide, *written]))


def _file(name: str | Path) -> str:
    """The name of a built-in cost, or a file's name without its folder."""
    return Path(name).resolve().name if Path(name).exists() else str(name)


def _name(activations: Path | None) -> str:
    """What the report calls the recording."""
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
    costs: list[str],
    workers: int | None,
    duration: float | None,
    quick: bool,
) -> "Load":
    """The load that was asked for, or one that tells more."""
    from eldr_service.lab.reports.load import WORKERS, Asked, pick_load

    share = 1.0 if options.drive_all else 1 - options.calibration_fraction
    asked = Asked(
        workers=workers,
        rate_per_s=options.offered(workers or WORKERS),
        duration_s=duration,
        trace=options.trace(),
        output_tokens=options.output(),
        driven=int(recording.num_requests * share),
        residences=QUICK_RESIDENCES if quick else RESIDENCES,
    )
    return pick_load(
        asked, recording, lambda number: options.deployment(costs, number), options.ranks
    )


def _estimate(plan: "Plan", processes: int) -> str:
    """About how long the runs take, extrapolated from one."""
    from eldr_service.lab.simulation.study import run_study

    base = plan.base
    once = replace(base, seeds=base.seeds[:1], policies=base.policies[-1:])
    run_study(once)  # no shorter: part of a trace may have no arrival
    start = time.perf_counter()  # with compiled kernels
    run_study(once)
    seconds = (time.perf_counter() - start) * plan.runs() / processes
    return f"about {span(max(1.0, seconds))}"


def _written(options: SimulationOptions) -> list[str]:
    """The options that differ from their defaults, except the rate, as written."""
    words: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name == "rate" or value == option.default:
            continue
        name = f"--{option.name.replace('_', '-')}"
        words += [name] if value is True else [name, _file(str(value))]
    return words
