"""`eldr partition`: the versions kept, and which one is in force."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from eldr.v1 import partition_pb2 as pb
from rich.console import RenderableType
from rich.text import Text

from eldr_service.cli import parsing
from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.models import Model, the_model
from eldr_service.cli.session import Session, as_dict
from eldr_service.cli.tables import facts, moment, span, table

app = typer.Typer(
    help="Partitions: list, show, import, export, activate, roll back, refit.",
    no_args_is_help=True,
)

COLUMNS = (
    *("MODEL", ">VERSION", "ACTIVE", ">SLOTS", "TRANSFORM", ">SIGNATURES", ">INERTIA"),
    "CREATED",
)

REFIT_COLUMNS = ("MODEL", "REFIT", ">WINDOW", ">DRIFT", "LAST OUTCOME", "NOW")


class Mode(Enum):
    """Whether partitions follow the traffic automatically."""

    off = "off"
    manual = "manual"
    auto = "auto"
    default = "default"


Version = Annotated[
    int,
    typer.Argument(metavar="VERSION", min=1, max=parsing.MAX_INT64, help="The version's number."),
]
Activate = Annotated[bool, typer.Option("--activate", help="Put it in force at once.")]


@command(app, "list")
def list_partitions(session: Session, model: Model = None) -> None:
    """List the partitions that are kept."""
    response = session.call(pb.ListPartitionsRequest(model=model or ""))
    lines: list[RenderableType] = ["no partitions yet; eldr fit makes one"]
    if response.partitions:
        lines = [table(COLUMNS, map(_row, response.partitions))]
    if response.refits:
        lines += ["", table(REFIT_COLUMNS, map(_refit_row, response.refits))]
    session.answer(response, *lines)


@command(app, "show")
def show(
    session: Session,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="VERSION",
            min=1,
            max=parsing.MAX_INT64,
            help="The version's number; by default the active one.",
        ),
    ] = None,
    model: Model = None,
) -> None:
    """Show how a partition was fitted, and which workers are bound to its slots."""
    name = the_model(session, model)
    kept = session.call(pb.ListPartitionsRequest(model=name)).partitions
    found = [one for one in kept if (one.version == version if version else one.active)]
    if not found:
        wanted = (
            f"no partition {version} of {name}" if version else f"{name} has no active partition"
        )
        raise CommandError(wanted, "eldr partition list shows all", "NOT_FOUND")
    session.answer(found[0], *described(found[0]))


@command(app, "import")
def import_partition(
    session: Session,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True),
    ],
    model: Annotated[
        str | None, typer.Option(help="The model; by default the one named in the file.")
    ] = None,
    activate: Activate = False,
) -> None:
    """Import a partition from a file, as a new version."""
    request = pb.ImportPartitionRequest(
        model=model or "", data=file.read_bytes(), activate=activate
    )
    response = session.call(request)
    session.answer(response, kept(response.partition))


@command(app, "export")
def export(
    session: Session,
    version: Version,
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="Overwritten.")],
    model: Model = None,
) -> None:
    """Write a partition to a safetensors file."""
    name = the_model(session, model)
    response = session.call(pb.ExportPartitionRequest(model=name, version=version))
    file.write_bytes(response.data)
    session.answer(
        {"file": str(file), "partition": as_dict(response.partition)},
        f"wrote version {version} of {name} to {file} ({len(response.data):,} bytes)",
    )


@command(app, "activate")
def activate(session: Session, version: Version, model: Model = None) -> None:
    """Put a version in force, from the next decision on."""
    name = the_model(session, model)
    response = session.call(pb.ActivatePartitionRequest(model=name, version=version))
    session.answer(response, f"{name} uses version {response.partition.version}")


@command(app, "rollback")
def rollback(session: Session, model: Model = None) -> None:
    """Go back to the previously active version."""
    name = the_model(session, model)
    response = session.call(pb.RollbackPartitionRequest(model=name))
    session.answer(response, f"{name} uses version {response.partition.version} again")


@command(app, "refit")
def refit(
    session: Session,
    mode: Annotated[
        Mode,
        typer.Argument(
            metavar="off|manual|auto|default",
            help="Keep no signatures; keep them for eldr fit; refit by itself; the daemon's mode.",
        ),
    ],
    model: Model = None,
) -> None:
    """Set whether a model's partition follows the traffic automatically."""
    name = the_model(session, model)
    number = pb.RefitMode.Value(
        f"REFIT_MODE_{'UNSPECIFIED' if mode is Mode.default else mode.name.upper()}"
    )
    response = session.call(pb.SetRefitRequest(model=name, mode=number))
    session.answer(response, f"refit of {name}: {_mode(response.refit)}")


def kept(partition: pb.PartitionInfo) -> str:
    """A line that says that a partition is kept, and how to put it in force."""
    where = f"kept as version {partition.version} of {partition.model}"
    if partition.active:
        return f"{where}, and active"
    return f"{where}; eldr partition activate {partition.version} puts it in force"


def described(partition: pb.PartitionInfo) -> list[RenderableType]:
    """All that is known about a partition."""
    shape = partition.geometry
    lines: list[RenderableType] = [
        facts(
            [
                ("model", partition.model),
                ("version", f"{partition.version}{', active' if partition.active else ''}"),
                ("slots", partition.num_slots),
                ("transform", partition.transform),
                (
                    "geometry",
                    f"{shape.num_layers} layers x {shape.num_experts} experts, top-{shape.top_k}",
                ),
                ("layers kept", ", ".join(map(str, partition.layers)) or "all"),
                ("created", moment(partition.create_time.seconds)),
                *sorted(partition.metadata.items()),
            ]
        )
    ]
    if partition.bindings:
        placed = sum(binding.placements for binding in partition.bindings) or 1
        rows = [
            [
                str(binding.slot),
                ", ".join(binding.worker_ids) or Text("vacant", "yellow"),
                str(binding.placements),
                f"{binding.placements / placed:.0%}",
            ]
            for binding in partition.bindings
        ]
        lines += ["", table((">SLOT", "WORKERS", ">PLACEMENTS", ">SHARE"), rows)]
    return lines


def _row(partition: pb.PartitionInfo) -> list[str | Text]:
    return [
        partition.model,
        str(partition.version),
        Text("active", "green") if partition.active else "-",
        str(partition.num_slots),
        partition.transform,
        partition.metadata.get("signatures", "-"),
        partition.metadata.get("inertia", "-"),
        moment(partition.create_time.seconds),
    ]


def _refit_row(refit: pb.RefitStatus) -> list[str | Text]:
    held = refit.held.ToTimedelta().total_seconds()
    now = "fitting" if refit.running else f"chosen by hand, left for {span(held)}" if held else "-"
    return [
        refit.model,
        _mode(refit),
        str(refit.window_signatures),
        f"{refit.drift:.2f}" if refit.drift else "-",
        refit.last_outcome or "-",
        now,
    ]


def _mode(refit: pb.RefitStatus) -> str:
    return str(pb.RefitMode.Name(refit.mode)).removeprefix("REFIT_MODE_").lower()
