"""`eldr top`: models, workers and placements, refreshed until it is interrupted."""

import time
from typing import Annotated

import typer
from rich.live import Live

from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.http import Http, listeners
from eldr_service.cli.models import Model
from eldr_service.cli.placements import told
from eldr_service.cli.screen import Screen
from eldr_service.cli.session import Session
from eldr_service.cli.standing import standings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "top")
    def top(
        session: Session,
        model: Model = None,
        http: Http = None,
        every: Annotated[
            float,
            typer.Option(metavar="SECONDS", min=0.1, max=3_600, help="Time between refreshes."),
        ] = 1.0,
    ) -> None:
        """Show models, workers (the fullest first) and the newest placements, until Ctrl-C.

        Placements come from the page that eldr-server serves over HTTP.
        """
        if session.json or not session.out.is_terminal:
            raise CommandError("top is for a terminal", "eldr status says the same once")
        pages = listeners(session.server, http)
        found = standings(session, model)
        with Live(console=session.out, screen=True, auto_refresh=False) as live:
            lost = ""
            while True:
                screen = Screen(
                    server=session.server,
                    model=model,
                    found=found,
                    told=told(session, pages, model),
                    lost=lost,
                )
                live.update(screen, refresh=True)
                time.sleep(every)
                try:
                    found, lost = standings(session, model), ""
                except CommandError as error:  # the daemon may come back
                    lost = str(error)
