"""`eldr warm-up`: compiles all kernels ahead of time, for containers that start often."""

import time

import typer

from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.session import Session
from eldr_service.core.errors import EldrError


def register(app: typer.Typer) -> None:
    """Add the command to `eldr`."""
    command(app, "warm-up")(run)


def run(session: Session) -> None:
    """Compile what eldr-server needs now, rather than at its first start.

    Kernels are kept in NUMBA_CACHE_DIR, or beside the installed package if that is not set. They
    are valid for this processor, Python and Numba; if one differs, a start compiles again.
    """
    from eldr_service.kernels import cache_troubles, warm_up  # these load NumPy and Numba
    from eldr_service.policies.registry import create_prepared, installed

    began = time.monotonic()
    folders = warm_up()
    for name in installed():  # policies of other packages may have kernels
        try:
            create_prepared(name, {})
        except EldrError as error:
            session.err.print(f"left out: {error}", markup=False)
    if troubles := cache_troubles():
        raise CommandError("; ".join(troubles))
    seconds = time.monotonic() - began
    session.answer(
        {"folders": folders, "seconds": round(seconds, 1)},
        *(f"compiled kernels are in {folder}" for folder in folders),
    )
