"""`eldr doctor`: the command, and how its findings look."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from eldr_service.cli.command import command
from eldr_service.cli.doctor.examine import examine
from eldr_service.cli.doctor.finding import Finding, Outcome
from eldr_service.cli.doctor.look import look
from eldr_service.cli.http import Http
from eldr_service.cli.models import Model
from eldr_service.cli.session import Session
from eldr_service.core.words import counted

SHOWN = {
    Outcome.OK: ("ok", "green"),
    Outcome.WARNING: ("warning", "yellow"),
    Outcome.FAULT: ("FAULT", "bold red"),
    Outcome.UNKNOWN: ("?", "cyan"),
}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "doctor")
    def doctor(
        session: Session,
        model: Model = None,
        proxy: Annotated[
            list[str] | None,
            typer.Option(metavar="URL", help="An eldr-proxy to check too; repeatable."),
        ] = None,
        http: Http = None,
        watch: Annotated[
            float,
            typer.Option(
                metavar="SECONDS",
                min=0,
                max=3_600,
                help="Judge placements and releases by what happens in this time, rather than by"
                " everything since the start.",
            ),
        ] = 0.0,
    ) -> None:
        """Check a deployment end to end: what is wrong, and what to type. Exits 1 on a fault."""
        found = list(examine(look(session, model, http, proxy or (), watch)))
        numbers = Counter(each.outcome for each in found)
        document = {
            "server": session.server,
            **{outcome.name.lower(): numbers[outcome] for outcome in Outcome},
            "checks": [
                {
                    "check": each.check,
                    "kind": each.kind,
                    "subject": each.subject,
                    "outcome": each.outcome.name.lower(),
                    "words": each.words,
                    "fix": each.fix,
                }
                for each in found
            ],
        }
        session.answer(document, *_shown(session.server, found, numbers))
        if numbers[Outcome.FAULT]:
            raise typer.Exit(1)


def _shown(
    server: str, found: Sequence[Finding], numbers: Counter[Outcome]
) -> Iterator[RenderableType]:
    for (kind, subject), findings in groupby(found, lambda each: (each.kind, each.subject)):
        yield Text(f"{kind} {subject or server}", "bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(min_width=9)
        table.add_column(min_width=11)
        table.add_column(overflow="fold")
        for each in findings:
            table.add_row(Text.assemble("  ", SHOWN[each.outcome]), each.check, each.words)
            if each.fix:
                table.add_row("", "", Text.assemble(("do: ", "bold"), each.fix))
        yield table
        yield ""
    faults, warnings = numbers[Outcome.FAULT], numbers[Outcome.WARNING]
    unchecked = numbers[Outcome.UNKNOWN]
    told = f"{counted(faults, 'fault')}, {counted(warnings, 'warning')}"
    told += f", {unchecked} not checked, {numbers[Outcome.OK]} ok"
    first = next((each for each in found if each.outcome is Outcome.FAULT), None)
    if first:
        where = f" of {first.subject}" if first.subject else ""
        yield f"{told}; start with {first.check}{where}: others may follow from it"
    else:
        yield told
