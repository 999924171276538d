"""`eldr top`: models and workers as they are, again and again."""

import time
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from eldr_service.cli import capture
from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.models import Model
from eldr_service.cli.session import Session
from eldr_service.cli.standing import Standing, standings
from eldr_service.cli.status import shown
from eldr_service.cli.tables import table
from eldr_service.cli.workers import report_age, state

BAR = 10  # characters of a full worker's load
COLUMNS = (
    *("WORKER", "STATE", "LOAD", ">BOOKED", ">SLOT", ">EXPERTS", ">STEP", "CAPTURE", ">REPORT"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "top")
    def top(
        session: Session,
        model: Model = None,
        every: Annotated[
            float,
            typer.Option(metavar="SECONDS", min=0.1, max=3_600, help="How often to look."),
        ] = 1.0,
    ) -> None:
        """Models and workers, the fullest first, until Ctrl-C."""
        if session.json or not session.out.is_terminal:
            raise CommandError("top is for a terminal", "eldr status says the same once")
        with Live(console=session.out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(session.server, standings(session, model)), refresh=True)
                time.sleep(every)


def _screen(server: str, found: list[Standing]) -> Group:
    head = Text.assemble(
        ("eldr top", "bold"), f"  {server}  {time.strftime('%H:%M:%S')}  Ctrl-C ends it"
    )
    if not found:
        return Group(head, "", "no model is known yet")
    parts: list[RenderableType] = [head, "", *shown(found)]
    for each in found:
        title = [Text(each.model, "bold")] if len(found) > 1 else []
        parts += ["", *title, table(COLUMNS, _rows(each))]
    return Group(*parts)


def _rows(of: Standing) -> list[list[str | Text]]:
    return [
        [
            worker.worker_id,
            state(worker),
            _bar(worker.load),
            f"{worker.booked_sequences}/{worker.capacity.sequences}",
            str(worker.slot) if worker.HasField("slot") else "-",
            f"{worker.active_experts:.1f}" if worker.active_experts else "-",
            f"{worker.step_time.ToNanoseconds() / 1e6:.1f} ms" if worker.batch_size else "-",
            capture.cell(worker.capture),
            report_age(worker),
        ]
        for worker in sorted(of.decode, key=lambda w: -w.load)
    ]


def _bar(load: float) -> Text:
    filled = min(BAR, round(BAR * load))
    style = "red" if load >= 1 else "yellow" if load > 0.8 else "green"
    return Text.assemble(f"{load:.2f} ", ("█" * filled, style), ("·" * (BAR - filled), "dim"))
