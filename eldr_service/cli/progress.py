"""Progress bars on stderr when it is a terminal; removed when done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from eldr_service.cli.session import Session


@contextmanager
def progress(session: Session, *columns: ProgressColumn) -> Iterator[Progress]:
    """Progress bars with a description in front and these columns behind."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=session.err,
        transient=True,
        disable=not session.err.is_terminal,
    ) as bars:
        yield bars


@contextmanager
def simulating(
    session: Session, steps: int, *columns: ProgressColumn
) -> Iterator[Callable[[], None]]:
    """A bar of `steps` steps; call the function that it yields after each."""
    with progress(session, MofNCompleteColumn(), TimeElapsedColumn(), *columns) as bars:
        task = bars.add_task("simulating", total=steps)
        yield lambda: bars.advance(task)
