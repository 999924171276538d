"""`eldr status`: the state of all models, on one screen."""

import typer
from rich.console import RenderableType
from rich.text import Text

from eldr_service.cli.command import command
from eldr_service.cli.models import Model
from eldr_service.cli.session import Session
from eldr_service.cli.standing import COLUMNS, Standing, standings
from eldr_service.cli.tables import table


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "status")
    def status(session: Session, model: Model = None) -> None:
        """Show the state of each model, and what is wrong."""
        found = standings(session, model)
        document = {"server": session.server, "models": [each.document() for each in found]}
        if not found:
            session.answer(document, f"{session.server} is running, and knows no model yet")
        else:
            session.answer(document, *shown(found))


def shown(found: list[Standing]) -> list[RenderableType]:
    """The table, and below it what is wrong."""
    troubles: list[RenderableType] = [
        Text.assemble(Text(each.model, "yellow"), f": {trouble}")
        for each in found
        for trouble in each.troubles()
    ]
    return [table(COLUMNS, (each.row() for each in found)), *(["", *troubles] if troubles else [])]
