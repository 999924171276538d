"""`eldr replay`: decides a decision log again, by the same policy or another."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import DownloadColumn, TimeElapsedColumn

from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.parsing import pairs
from eldr_service.cli.progress import progress
from eldr_service.cli.session import Session
from eldr_service.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from eldr_service.core.partition import Partition
    from eldr_service.lab.replay.instead import Instead
    from eldr_service.lab.replay.replay import Replay


def register(app: typer.Typer) -> None:
    """Add the command to `eldr` itself."""
    command(app, "replay")(replay)


def replay(
    session: Session,
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG",
            exists=True,
            readable=True,
            help="The folder of eldr-server --decision-log, or one file of it.",
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,…]",
            help="Decides the whole log; by default the logged policies do, which must place every"
            " request as logged.",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A parameter of --policy, or of the logged ones; repeatable."
        ),
    ] = None,
    partition: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="A partition (eldr partition export) in place of the log's.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Only decisions of this model.")
    ] = None,
) -> None:
    """Decide again what a daemon decided, on this machine.

    There are two ways: as logged, where each decision sees what the daemon saw, and followed
    through, where it sees the results of the replayed decisions before it. See docs/replay.md.
    """
    from eldr_service.cli.replay_summary import Summary  # numba: half a second
    from eldr_service.decision_log.reader import LogError, LogReader
    from eldr_service.lab.replay.replay import Replay
    from eldr_service.lab.simulation.study import log_to_stderr

    instead = _checked(policy, pairs(param, "--param"))
    if partition:
        instead = replace(instead, partition=_partition(partition, model))
    log_to_stderr()
    try:
        reader, again = LogReader(log), Replay(instead, model)
        with progress(session, DownloadColumn(), TimeElapsedColumn()) as bars:
            task = bars.add_task("replaying", total=reader.total_bytes)
            reader.on_read = lambda: bars.update(task, completed=reader.bytes_read)
            for _ in again.run(reader):
                pass
    except LogError as error:
        raise CommandError(str(error)) from error
    for note in reader.notes:
        session.note(f"warning: {note}", "yellow")
    _check_found(again, instead, model)
    summary = Summary(log, reader, instead, again.figures)
    session.answer(summary.document(), *summary.tables())


def _checked(policy: str | None, parameters: dict[str, str]) -> "Instead":
    from eldr_service.lab.replay.instead import Instead
    from eldr_service.policies.registry import create, parse

    if policy is None:
        return Instead(None, parameters)
    try:
        name, written = parse(policy)
        parameters = {**written, **parameters}
        create(name, parameters)
    except InvalidArgumentError as error:
        raise typer.BadParameter(f"{policy}: {error}", param_hint="--policy") from error
    return Instead(name, parameters)


def _partition(path: Path, model: str | None) -> "Partition":
    from eldr_service.stores.partition_file import load_partition

    try:
        found = load_partition(path.read_bytes())
    except InvalidArgumentError as error:
        raise CommandError(f"{path}: {error}") from error
    return replace(found, model=model) if model else found


def _check_found(again: "Replay", instead: "Instead", model: str | None) -> None:
    """Raise if nothing was decided again, or not as asked."""
    known = ", ".join(sorted(again.models)) or "none"
    if model and model not in again.models:
        raise CommandError(f"the log has no model {model}", f"it has {known}")
    if instead.partition and instead.partition.model not in again.models:
        raise CommandError(
            f"the partition is for model {instead.partition.model}, which is not in the log",
            f"--model with one of {known} says which it is for",
        )
