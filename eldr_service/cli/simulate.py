"""`eldr simulate`: runs policies over recorded routing, in virtual time, on this machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from eldr_service.cli.command import command
from eldr_service.cli.progress import simulating
from eldr_service.cli.session import Session
from eldr_service.cli.simulation_options import (
    COST,
    POLICY_HELP,
    SimulationOptions,
    check_policies,
    recording_notes,
)


def register(app: typer.Typer) -> None:
    """Add the command to `eldr` itself."""
    command(app, "simulate")(simulate)


def simulate(
    session: Session,
    activations: Annotated[
        Path,
        typer.Option(
            metavar="FILE.npz|DIR",
            exists=True,
            readable=True,
            help="Recorded routing: each token's experts, prefill and decode; or a folder of"
            " engines' recordings.",
        ),
    ],
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Decode workers.")],
    options: SimulationOptions,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE|DIR",
            help=f"What a decode step costs: {COST} (the default), gpt-oss-120b-h200,"
            " gemma-4-26b-a4b-h200 (each with -moe-layers too: the MoE layers alone),"
            " qwen3-30b-a3b-rtxpro6000, a TOML file, or engines' recordings, to whose steps it is"
            " fitted. Repeatable: the engines take them in turn.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,…]",
            help=POLICY_HELP,
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(metavar="S", help="Seconds during which requests arrive.")
    ] = 30.0,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of seeds from --seed on, for intervals.")
    ] = 1,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes; by default one per core.")
    ] = None,
) -> None:
    """Send recorded requests through the router's own code to simulated decode engines.

    All policies see the same requests. Changes are relative to the best of the given policies that
    see load alone; negative is better.
    """
    from eldr_service.cli.simulate_summary import Summary  # numba: half a second
    from eldr_service.lab.simulation.contender import BY_DEFAULT
    from eldr_service.lab.simulation.study import Study, log_to_stderr, run_study, steps

    costs = cost or [COST]
    policies = tuple(dict.fromkeys(policy or BY_DEFAULT))
    check_policies(policies)
    study = Study(
        activations=activations,
        policies=policies,
        deployment=options.deployment(costs, workers),
        traffic=options.traffic(options.offered(workers), duration),
        seeds=tuple(range(options.seed, options.seed + seeds)),
        calibration_fraction=options.calibration_fraction,
        drive_all=options.drive_all,
        shift_s=options.shift_at,
    )
    log_to_stderr()
    try:
        for note in recording_notes((activations, options.arrivals), costs):
            session.note(note)
        with simulating(session, steps(study)) as done:
            runs = run_study(study, jobs or os.cpu_count() or 1, done)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    summary = Summary(study, options.arrivals, options.output_tokens, runs)
    for caution in summary.cautions():
        session.note(caution, "yellow")
    session.answer(summary.document(), *summary.tables())
