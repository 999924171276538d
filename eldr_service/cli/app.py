"""The root of `eldr`: its command groups, and the options that all of them share."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from eldr_service.cli import (
    explain,
    fit,
    partitions,
    policies,
    recordings,
    replay,
    report,
    route,
    simulate,
    status,
    top,
    warm_up,
    workers,
)
from eldr_service.cli.command import Common, bundled
from eldr_service.cli.doctor import command as doctor
from eldr_service.cli.parameters import Group

app = typer.Typer(
    name="eldr",
    cls=Group,
    help="Inspect and steer an eldr-server: workers, policies, partitions, placements.",
    epilog="Exit status: 0 success, 1 failure, 2 wrong usage. Connection options may come before"
    " or after the command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(workers.app, name="workers", cls=Group)
app.add_typer(policies.app, name="policy", cls=Group)
app.add_typer(partitions.app, name="partition", cls=Group)
app.add_typer(recordings.app, name="recording", cls=Group)
for group in (status, top, doctor, fit, route, explain, simulate, report, replay, warm_up):
    group.register(app)


def _version(asked: bool) -> None:
    if asked:
        print(f"eldr {version('eldr-service')}")
        raise typer.Exit


@app.callback()
@bundled
def _root(
    context: typer.Context,
    common: Common,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    context.obj = common


def main() -> None:
    """Run `eldr`."""
    try:
        app(prog_name="eldr")
    except KeyboardInterrupt:  # before any command began
        sys.exit(130)
    except OSError as error:  # not even the failure could be written to stdout
        sys.exit(f"eldr: {error}")
