"""`eldr explain`: why a request was placed as it was, or where one would go now."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import typer
from eldr.v1 import router_pb2 as pb
from rich.console import RenderableType
from rich.text import Text

from eldr_service.cli.command import command
from eldr_service.cli.models import the_model
from eldr_service.cli.route import Request, source
from eldr_service.cli.session import Session
from eldr_service.cli.tables import facts, span, table

OF_BOTH = {"model", "attempt"}  # options for a placed request and for a hypothetical one
HINTS = {
    pb.PLACEMENT_REASON_LEAST_LOADED_NO_SIGNATURE: "--counts gives a signature, as does the"
    " --request-id of one that the daemon holds; --conversation and --label tenant=NAME predict it",
    pb.PLACEMENT_REASON_LEAST_LOADED_NO_PARTITION: "eldr fit --import --activate makes a partition",
}
PREDICTED = {
    pb.SIGNATURE_SOURCE_SESSION,
    pb.SIGNATURE_SOURCE_PREFIX,
    pb.SIGNATURE_SOURCE_TENANT,
}


def register(app: typer.Typer) -> None:
    """Add the command to `eldr` itself."""
    command(app, "explain")(explain)


def explain(
    session: Session,
    placed: Annotated[
        str | None,
        typer.Argument(metavar="REQUEST", help="A placed request, live or recently ended."),
    ] = None,
    *,
    request: Request,
) -> None:
    """Explain why REQUEST was placed as it was; without REQUEST, where one would go now.

    The daemon keeps the inputs of its latest decisions. Nothing is booked.
    """
    if placed is None:
        _would_go(session, request)
    else:
        _went(session, placed, request)


def _went(session: Session, placed: str, request: Request) -> None:
    for field in dataclasses.fields(Request):
        if field.name not in OF_BOTH and getattr(request, field.name) != field.default:
            option = f"--{field.name.replace('_', '-')}"
            raise typer.BadParameter(
                f"applies only to a request to be placed; {placed} has been", param_hint=option
            )
    message = pb.ExplainRequest(
        model=the_model(session, request.model), request_id=placed, attempt=request.attempt
    )
    response = session.call(message)
    placement = response.placement
    parameters = sorted(response.policy_parameters.items())
    policy = [placement.policy, *(f"{name}={value}" for name, value in parameters)]
    said = [
        ("request", f"{response.request_id} of {response.model}, attempt {response.attempt}"),
        ("placed", f"on {placement.worker_id}, {span(_seconds(response.age))} ago"),
        ("booking", _state(response)),
        ("policy", f"{policy[0]}: {', '.join(policy[1:])}"),
        ("known", _known(response)),
        *_why(placement),
    ]
    session.answer(response, facts(said), "", _table(placement))


def _would_go(session: Session, request: Request) -> None:
    message = request.message(session)
    message.dry_run = message.explain = True
    response = session.call(message)
    placement = response.placement
    version = placement.partition_version
    partition = f"partition {version}" if version else "no partition used"
    known = f"experts of {placement.coverage:.0%} of the prompt"
    if placement.signature_source in PREDICTED:
        known = f"none of its own experts; {source(placement)}"
    said = [
        ("would go", f"to {placement.worker_id}; nothing is booked"),
        ("policy", placement.policy),
        ("known", f"{known}; {partition}"),
        *_why(placement),
    ]
    if hint := HINTS.get(placement.reason):
        said.append(("hint", hint))
    session.answer(response, facts(said), "", _table(placement))


def _state(response: pb.ExplainResponse) -> str:
    match response.state:
        case pb.BOOKING_STATE_LIVE:
            lease = span(_seconds(response.placement.lease_remaining))
            seen = ", and its worker reports it" if response.running else ""
            return f"live{seen}; its lease ends in {lease} unless it is renewed"
        case pb.BOOKING_STATE_ENDED:
            return f"ended: {response.ended}"
    return "ended more than 10 minutes ago"


def _known(response: pb.ExplainResponse) -> str:
    known, prompt = response.known_tokens, response.prompt_tokens
    if known:
        said = f"experts of {known:,} of {prompt:,} prompt tokens"
        said += f" ({response.placement.coverage:.0%})"
    elif response.placement.signature_source in PREDICTED:
        said = f"none of its own experts; {source(response.placement)}"
    else:
        said = f"no experts of the prompt's {prompt:,} tokens" if prompt else "no signature"
    version = response.placement.partition_version
    return f"{said}; {f'partition {version}' if version else 'no partition used'}"


def _why(placement: pb.Placement) -> Iterator[tuple[str, str]]:
    yield "why", placement.rule
    if placement.early:
        yield "early", "it used part of the signature, as the rest had not arrived"
    if placement.stale:
        yield "stale", "reports were too old: those loads are from the daemon's own bookings"


def _table(placement: pb.Placement) -> RenderableType:
    """All workers; columns without any value are left out."""
    least = min((s.cost for s in placement.scores if s.HasField("cost")), default=0.0)
    rows = [
        _row(score, score.worker_id == placement.worker_id, least) for score in placement.scores
    ]
    in_band = "IN BAND" if placement.reason == pb.PLACEMENT_REASON_LOCALITY_BAND else "CONSIDERED"
    columns = (
        *("", "WORKER", ">SIMILARITY", ">LOAD", ">EXPERTS", ">COST", ">CACHED"),
        *(in_band, ">REPORT", "ELIGIBLE"),
    )
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return table(
        [columns[i] for i in shown],
        ([row[i] or ("-" if columns[i] else "") for i in shown] for row in rows),
    )


def _row(score: pb.WorkerScore, chosen: bool, least: float) -> list[str | Text]:
    """Cells of one worker, empty where a value is unknown. Costs are relative to the least."""
    known = score.HasField
    return [
        Text("→", "bold green") if chosen else "",
        Text(score.worker_id, "bold green" if chosen else ""),
        f"{score.similarity:.3f}" if known("similarity") else "",
        f"{score.load:.2f}",
        f"{score.predicted_active_experts:.1f}" if known("predicted_active_experts") else "",
        f"{score.cost / least:.2f}x" if known("cost") and least > 0 else "",
        f"{score.cached_tokens:,}" if score.cached_tokens else "",
        "yes" if score.in_band else "",
        _report(score),
        "yes" if score.eligible else Text(f"no: {score.ineligible_reason}", "yellow"),
    ]


def _report(score: pb.WorkerScore) -> str | Text:
    if not score.HasField("report_age"):
        return "never"
    age = span(_seconds(score.report_age))
    return Text(f"{age}, stale", "red") if score.stale else age


def _seconds(duration: object) -> float:
    return float(duration.ToNanoseconds() / 1e9)  # type: ignore[attr-defined]
