"""`eldr route`, `eldr release`: place a request, and end its booking."""

import secrets
import shlex
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from eldr.v1 import activation_pb2
from eldr.v1 import router_pb2 as pb
from rich.console import RenderableType
from rich.text import Text

from eldr_service.cli import parsing
from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.models import Model, the_model
from eldr_service.cli.session import Session
from eldr_service.cli.tables import facts, span


def register(app: typer.Typer) -> None:
    """Add the commands to `eldr` itself."""
    for function in (route, release):
        command(app, function.__name__)(function)


_SOURCES = {
    pb.SIGNATURE_SOURCE_CALLER: "the call's own counts",
    pb.SIGNATURE_SOURCE_REGISTERED: "registered by the prefill",
    pb.SIGNATURE_SOURCE_SESSION: "predicted by the conversation's earlier turns",
    pb.SIGNATURE_SOURCE_PREFIX: "predicted by requests whose prompts begin alike",
    pb.SIGNATURE_SOURCE_TENANT: "predicted by the tenant's requests",
}


class Outcome(Enum):
    """How a decode ended."""

    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The request to place, and the workers that may take it."""

    model: Model = None
    request_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="By default a new id. If the daemon holds its signature, --counts is not needed.",
        ),
    ] = None
    attempt: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=parsing.MAX_UINT32,
            help="One try of the decode; a higher one supersedes.",
        ),
    ] = None
    counts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Recorded routing; its request --request gives the signature.",
        ),
    ] = None
    request: Annotated[
        int, typer.Option(metavar="N", min=0, help="Which request of --counts, from 0.")
    ] = 0
    top_k: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Experts per token, if --counts has no tokens."),
    ] = None
    candidate: Annotated[
        list[str] | None, typer.Option(metavar="WORKER", help="Only these workers; repeatable.")
    ] = None
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="WORKER", help="Not these workers; repeatable.")
    ] = None
    selector: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only workers with this label; repeatable."),
    ] = None
    pin: Annotated[
        str | None, typer.Option(metavar="WORKER", help="This worker, not the policy's pick.")
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A label of the request; repeatable."),
    ] = None
    conversation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The conversation of which it is a turn: without counts, its experts are predicted"
            " by earlier turns, else by --label tenant=NAME.",
        ),
    ] = None

    def message(self, session: Session) -> pb.RouteRequest:
        """The message to the daemon."""
        return pb.RouteRequest(
            model=the_model(session, self.model),
            request_id=self.request_id or f"cli-{secrets.token_hex(4)}",
            attempt=self.attempt or 0,
            counts=_counts(self.counts, self.request, self.top_k) if self.counts else None,
            candidate_workers=self.candidate or (),
            exclude_workers=self.exclude or (),
            worker_selector=parsing.pairs(self.selector, "--selector"),
            pinned_worker=self.pin or "",
            labels=parsing.pairs(self.label, "--label"),
            session=self.conversation or "",
        )


def route(
    session: Session,
    request: Request,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, but book nothing.")] = False,
    lease: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="How long the booking lives unless it is released or renewed.",
        ),
    ] = None,
    max_wait: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=60,
            help="How long to wait for a place if all workers are full; by default not at all.",
        ),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(
            metavar="N", min=-10, max=10, help="Among waiting calls, higher ones go first."
        ),
    ] = 0,
) -> None:
    """Place a request as a scheduler would: choose a worker and book it.

    The booking counts as load until `eldr release` or the end of its lease. To book nothing, use
    --dry-run, or `eldr explain`, which also says why.
    """
    message = request.message(session)
    message.dry_run, message.priority = dry_run, priority
    if lease is not None:
        message.lease_ttl.FromMilliseconds(round(lease * 1e3))
    if max_wait is not None:
        message.max_wait.FromMilliseconds(round(max_wait * 1e3))
    response = session.call(message, timeout=10.0 + (max_wait or 0.0))
    placement = response.placement
    session.answer(response, _placed(placement), *_booked(message, placement))


def release(
    session: Session,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The request's id.")],
    model: Model = None,
    attempt: Annotated[
        int, typer.Option(metavar="N", min=0, max=parsing.MAX_UINT32, help="The attempt that ends.")
    ] = 0,
    outcome: Annotated[Outcome, typer.Option(help="How its decode ended.")] = Outcome.completed,
) -> None:
    """End a booking. Twice is fine; an attempt never booked then cannot be for 10 minutes."""
    message = pb.ReleaseRequest(
        model=the_model(session, model),
        request_id=request_id,
        attempt=attempt,
        outcome=f"RELEASE_OUTCOME_{outcome.name.upper()}",
    )
    response = session.call(message)
    result = pb.ReleaseResult.Name(response.result).removeprefix("RELEASE_RESULT_")
    said = {
        "RELEASED": f"released {request_id}",
        "ALREADY_RELEASED": f"{request_id} had been released already",
        "UNKNOWN": f"{message.model} has no booking {request_id} (attempt {attempt})",
    }
    session.answer(response, said[result])


def _counts(file: Path, number: int, top_k: int | None) -> activation_pb2.ActivationCounts:
    """The prefill of one recorded request."""
    from eldr_client.counts import Counts

    from eldr_service.lab.recordings import Recording

    try:
        recording = Recording.load(file, top_k=top_k)
        if number < recording.num_requests:
            counts = recording.prefill_counts()[number]
            return Counts(counts, recording.geometry.top_k).to_proto()
    except ValueError as error:
        raise CommandError(str(error)) from error
    last = recording.num_requests - 1
    raise typer.BadParameter(f"{file} has requests 0 to {last}", param_hint="--request")


def _placed(placement: pb.Placement) -> RenderableType:
    rank = f" rank {placement.dp_rank}" if placement.dp_rank else ""
    similarity = f"{placement.similarity:.4f}" if placement.HasField("similarity") else "unknown"
    return facts(
        [
            ("worker", Text(placement.worker_id, "bold green")),
            ("url", f"{placement.url}{rank}"),
            ("alternates", ", ".join(other.worker_id for other in placement.alternates) or "none"),
            ("reason", pb.PlacementReason.Name(placement.reason).removeprefix("PLACEMENT_REASON_")),
            ("signature", source(placement)),
            ("similarity", similarity),
            ("coverage", f"{placement.coverage:.0%}"),
            ("policy", placement.policy),
            ("partition", placement.partition_version or "none"),
        ]
    )


def source(placement: pb.Placement) -> str:
    """Where a placement's signature came from."""
    return _SOURCES.get(placement.signature_source, "none")


def _booked(message: pb.RouteRequest, placement: pb.Placement) -> list[str]:
    if not placement.lease_id:
        return ["\ndry run: nothing is booked"]
    attempt = f" --attempt {message.attempt}" if message.attempt else ""
    name = shlex.quote(message.request_id), shlex.quote(message.model)
    again = " (it was booked already)" if placement.repeated else ""
    return [
        f"\nbooked for {span(placement.lease_remaining.ToNanoseconds() / 1e9)}{again}, or until",
        f"  eldr release {name[0]} --model {name[1]}{attempt}",
    ]
