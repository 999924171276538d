"""`eldr workers`: list, add, drain and remove workers."""

from typing import Annotated

import typer
from eldr.v1 import fleet_pb2 as pb
from rich.text import Text

from eldr_service.cli import capture, parsing
from eldr_service.cli.command import command
from eldr_service.cli.drain import Role, drain
from eldr_service.cli.models import Model
from eldr_service.cli.session import Session
from eldr_service.cli.tables import span, table
from eldr_service.cli.worker_model import model_of
from eldr_service.core.words import counted

app = typer.Typer(help="Workers: list, add, drain, remove.", no_args_is_help=True)

STATE_STYLES = {"READY": "green", "JOINING": "cyan", "DRAINING": "yellow", "GONE": "dim"}
COLUMNS = (
    *("MODEL", "WORKER", "ROLE", "STATE", "CAPTURE", ">SLOT", ">LOAD", ">BOOKED", ">FOREIGN"),
    *("URL", ">REPORT"),
)

WorkerId = Annotated[str, typer.Argument(metavar="WORKER", help="The worker's id.")]


@command(app, "list")
def list_workers(session: Session, model: Model = None) -> None:
    """List the workers."""
    response = session.call(pb.ListWorkersRequest(model=model or ""))
    if response.workers:
        rows = map(_row, response.workers)
        session.answer(response, table(COLUMNS, rows), *capture.remarks(response.workers))
    else:
        session.answer(response, "no workers yet; eldr workers add adds one")


@command(app, "add")
def add(
    session: Session,
    worker: WorkerId,
    model: Annotated[str, typer.Option(help="The model that it serves.")],
    url: Annotated[str, typer.Option(help="Where it serves; handed to callers unchanged.")],
    role: Annotated[Role, typer.Option(help="What it does.")] = Role.decode,
    capacity: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=parsing.MAX_UINT32,
            help="Maximum sequences; 0: the daemon's default.",
        ),
    ] = 0,
    kv_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=parsing.MAX_INT64, help="Tokens in its KV cache; 0: unknown."
        ),
    ] = 0,
    group: Annotated[str, typer.Option(help="Workers that can pass KV to each other.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label for selectors; repeatable.")
    ] = None,
    geometry: Annotated[
        str | None,
        typer.Option(metavar="LxExK", help="Layers, experts, top_k, such as 48x128x8."),
    ] = None,
    dp_rank: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=parsing.MAX_UINT32, help="Data-parallel rank at that url."
        ),
    ] = 0,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Begin a new incarnation of a worker that exists, and end its bookings.",
        ),
    ] = False,
) -> None:
    """Add a worker that does not register by itself; it takes requests at once."""
    response = session.call(
        pb.RegisterWorkerRequest(
            worker_id=worker,
            model=model,
            role=f"WORKER_ROLE_{role.name.upper()}",
            url=url,
            dp_rank=dp_rank,
            group=group,
            labels=parsing.pairs(label, "--label"),
            capacity=pb.WorkerCapacity(sequences=capacity, kv_tokens=kv_tokens),
            geometry=parsing.geometry(geometry),
            only_new=not again,
        )
    )
    session.answer(response, f"added {worker} to {model}")


command(app, "drain")(drain)


@command(app, "remove")
def remove(session: Session, worker: WorkerId, model: Model = None) -> None:
    """Remove a worker at once and end its bookings; drain it first if it still answers."""
    request = pb.RemoveWorkerRequest(model=model_of(session, worker, model), worker_id=worker)
    response = session.call(request)
    ended = counted(response.ended_bookings, "booking")
    session.answer(response, f"removed {worker} from {request.model}: {ended} ended")


def _row(worker: pb.Worker) -> list[str | Text]:
    return [
        worker.model,
        worker.worker_id,
        pb.WorkerRole.Name(worker.role).removeprefix("WORKER_ROLE_"),
        state(worker),
        capture.cell(worker.capture),
        str(worker.slot) if worker.HasField("slot") else "-",
        f"{worker.load:.2f}",
        f"{worker.booked_sequences}/{worker.capacity.sequences}",
        str(worker.foreign_sequences),
        f"{worker.url} rank {worker.dp_rank}" if worker.dp_rank else worker.url,
        report_age(worker),
    ]


def state(worker: pb.Worker) -> Text:
    """Its state, with why it is avoided or how far its drain is."""
    name = pb.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_")
    more = ""
    if worker.state == pb.WORKER_STATE_DRAINING:
        if worker.drained:
            more = "empty"
        elif worker.HasField("drain_remaining"):
            more = f"{span(worker.drain_remaining.ToNanoseconds() / 1e9)} left"
    elif worker.avoidance:
        avoidance = pb.WorkerAvoidance.Name(worker.avoidance).removeprefix("WORKER_AVOIDANCE_")
        more = avoidance.lower().replace("_", " ")
        if worker.avoidance == pb.WORKER_AVOIDANCE_HELD_DOWN:
            more += f" {span(worker.hold_down.ToNanoseconds() / 1e9)}"
    elif worker.relief > 1:
        more = f"slow x{worker.pace:.1f}"
    style = "yellow" if more else STATE_STYLES.get(name, "")
    return Text(f"{name}, {more}" if more else name, style)


def report_age(worker: pb.Worker) -> str | Text:
    """The age of its last report."""
    if not worker.HasField("report_age"):
        return "never"
    age = span(worker.report_age.ToNanoseconds() / 1e9)
    return Text(f"{age}, stale", "red") if worker.stale else age
