"""`eldr fit`: fits a partition on recorded routing, or on the daemon's recent signatures."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from eldr.v1 import partition_pb2 as pb
from rich.console import RenderableType
from rich.progress import TimeElapsedColumn

from eldr_service.cli import parsing
from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.models import the_model
from eldr_service.cli.partitions import Activate, described, kept
from eldr_service.cli.progress import progress
from eldr_service.cli.session import Session, as_dict
from eldr_service.cli.tables import facts, table

if TYPE_CHECKING:
    from eldr_service.core.partition import Partition

HELD_OUT = "held_out_experts["  # prefix of the metadata of each transform that "auto" tried
FIT_SECONDS = 600.0  # timeout of a fit in the daemon, where placements go first


class Transform(Enum):
    """How counts become signatures."""

    auto = "auto"
    counts = "counts"
    counts_idf = "counts-idf"
    sqrt = "sqrt"


def register(app: typer.Typer) -> None:
    """Add the command to `eldr` itself."""
    command(app, "fit")(fit)


def fit(
    session: Session,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE.npz|DIR]",
            exists=True,
            readable=True,
            help="Recorded routing: each token's experts, or just counts; or a folder of engines'"
            " recordings.",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Centroids; required with a file, else by default one per decode worker.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The name that its workers register; with --import, by default the only model"
            " that the daemon knows."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write the partition here."),
    ] = None,
    import_: Annotated[
        bool, typer.Option("--import", help="Hand the partition to the daemon.")
    ] = False,
    activate: Activate = False,
    transform: Annotated[
        Transform,
        typer.Option(
            help="How counts become signatures; auto tries all, with all or half of the layers."
        ),
    ] = Transform.auto,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="0-11,20", help="Layers to use; by default all, or those that auto chooses."
        ),
    ] = None,
    max_iter: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum iterations.")] = 50,
    n_init: Annotated[
        int, typer.Option(metavar="N", min=1, help="Restarts; the best one is kept.")
    ] = 1,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the fit.")] = 0,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Experts per token; for files of counts alone."),
    ] = None,
) -> None:
    """Fit a partition on the prefills of a recording, or on recent requests.

    With a file, the fit runs here: give --out to write the partition to a file, --import to hand it
    to the daemon, or both. Without a file, the daemon fits on its window of recent signatures and
    keeps the partition.
    """
    if file is None:
        if out or import_ or top_k:
            raise typer.BadParameter("--out, --import and --top-k need a file")
        request = pb.FitPartitionRequest(
            model=the_model(session, model),
            num_slots=slots or 0,
            transform=transform.value,
            layers=parsing.layers(layers) or [],
            max_iter=max_iter,
            n_init=n_init,
            random_state=seed,
            activate=activate,
        )
        response = session.call(request, timeout=FIT_SECONDS)
        session.answer(response, *described(response.partition), "", kept(response.partition))
        return
    if slots is None:
        raise typer.BadParameter("required with a file", param_hint="--slots")
    if activate and not import_:
        raise typer.BadParameter("--activate needs --import")
    if out and not out.parent.is_dir():  # fail now, not after a long fit
        raise typer.BadParameter(f"no directory {out.parent}", param_hint="--out")
    if out and not (model or import_):
        raise typer.BadParameter("required, as it is written to the file", param_hint="--model")
    name = the_model(session, model) if import_ else model or file.stem

    partition, sizes, warned = _fit(
        session,
        file,
        top_k,
        name,
        n_clusters=slots,
        transform=transform.value,
        layers=parsing.layers(layers),
        max_iter=max_iter,
        n_init=n_init,
        random_state=seed,
    )
    for warning in warned:
        session.note(f"warning: {warning}", "yellow")
    info = _info(partition)
    lines = _described(info, sizes)
    if out or import_:
        from eldr_service.stores.partition_file import dump_partition

        data = dump_partition(partition)
        if out:
            out.write_bytes(data)
            lines.append(f"wrote {out} ({len(data):,} bytes)")
        if import_:
            request = pb.ImportPartitionRequest(model=name, data=data, activate=activate)
            info = session.call(request).partition
            lines.append(kept(info))
    else:
        lines.append("nothing was kept: --out FILE writes it, --import hands it to the daemon")
    document = {
        "partition": as_dict(info),
        "slot_sizes": sizes,
        "file": str(out) if out else None,
        "imported": import_,
        "warnings": warned,
    }
    session.answer(document, *lines)


def _fit(
    session: Session, file: Path, top_k: int | None, model: str, **how: Any
) -> tuple["Partition", list[int], list[str]]:
    """Fit; return the partition, the number of requests nearest to each slot, and warnings."""
    from eldr_service.fitting import fit_partition  # numba: half a second
    from eldr_service.lab.recordings import Recording

    with _followed(session) as (choosing, fitting), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            recording = Recording.load(file, top_k=top_k)
            counts = recording.prefill_counts()
            partition = fit_partition(
                model,
                counts,
                recording.geometry,
                decode_counts=recording.decode_counts(),
                choice_progress=choosing,
                progress=fitting,
                **how,
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
    signatures = partition.transform.apply(counts)
    nearest = (signatures @ partition.centroids.T).argmax(axis=1)[signatures.any(axis=1)]
    sizes = [int((nearest == slot).sum()) for slot in range(partition.num_slots)]
    return partition, sizes, [str(warning.message) for warning in caught]


@contextmanager
def _followed(
    session: Session,
) -> Iterator[tuple[Callable[[int, int], None], Callable[[int, int, float], None]]]:
    """A progress bar for the choice of the transform, then for the fit."""
    with progress(session, TimeElapsedColumn()) as bar:
        task = bar.add_task("preparing", total=None)

        def choosing(done: int, total: int) -> None:
            description = f"choosing the transform, fit {done} of {total}"
            bar.update(task, description=description, completed=done, total=total)

        def fitting(iteration: int, at_most: int, inertia: float) -> None:
            description = f"iteration {iteration} of at most {at_most}, inertia {inertia:.3f}"
            bar.update(task, description=description, completed=iteration, total=at_most)

        yield choosing, fitting


def _info(partition: "Partition") -> pb.PartitionInfo:
    from eldr_service.server.rpc import writing

    layers = partition.transform.layers
    assert layers is not None
    return pb.PartitionInfo(
        model=partition.model,
        geometry=writing.geometry(partition.geometry),
        num_slots=partition.num_slots,
        transform=partition.transform.name,
        layers=[] if len(layers) == partition.geometry.num_layers else layers.tolist(),
        metadata=partition.metadata,
        create_time=writing.timestamp(partition.created),
    )


def _described(info: pb.PartitionInfo, sizes: list[int]) -> list[RenderableType]:
    shape, found = info.geometry, info.metadata
    scores = {
        key.removeprefix(HELD_OUT).rstrip("]"): float(value)
        for key, value in found.items()
        if key.startswith(HELD_OUT)
    }
    widest = max(map(len, scores), default=0)
    chosen = [
        f"{info.transform}; experts per layer that a step on held-out requests would touch:",
        *(
            f"  {name:<{widest}} {score:.2f}"
            for name, score in sorted(scores.items(), key=itemgetter(1))
        ),
    ]
    return [
        facts(
            [
                ("model", info.model),
                (
                    "geometry",
                    f"{shape.num_layers} layers x {shape.num_experts} experts, top-{shape.top_k}",
                ),
                ("requests", found["signatures"]),
                ("inertia", f"{found['inertia']} after {found['iterations']} iterations"),
                ("transform", "\n".join(chosen) if scores else info.transform),
                *([("layers", ", ".join(map(str, info.layers)))] if info.layers else []),
            ]
        ),
        "",
        table(
            (">SLOT", ">NEAREST REQUESTS"),
            ((str(slot), str(size)) for slot, size in enumerate(sizes)),
        ),
        "",
    ]
