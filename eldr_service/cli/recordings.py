"""`eldr recording`: makes recordings from what engines return, without the shim."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eldr_service.cli import parsing
from eldr_service.cli.command import command
from eldr_service.cli.failure import CommandError
from eldr_service.cli.session import Session
from eldr_service.cli.tables import facts

if TYPE_CHECKING:
    from eldr_service.lab.recordings.imported import Imported

app = typer.Typer(help="Recorded routing from engines' answers.", no_args_is_help=True)

NAMED = 10  # malformed lines on stderr; --json has all


@command(app, "import")
def import_answers(
    session: Session,
    answers: Annotated[
        list[Path],
        typer.Argument(
            metavar="ANSWERS…",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Logged answers: JSON lines, JSON, or server-sent events.",
        ),
    ],
    experts: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=65_536, help="Routed experts per layer of the model."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.npz", dir_okay=False, help="The recording; overwritten.")
    ],
    hidden_layers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="All layers, dense ones too; SGLang only."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Experts per token; SGLang only.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="0-11,20,…",
            help="Which hidden layers are MoE; by default those whose picks are not all 0.",
        ),
    ] = None,
    domain_field: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Field with the request's domain, such as metadata.tenant."
        ),
    ] = None,
    arrivals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            dir_okay=False,
            help="Also write arrival times and lengths, for eldr report --arrivals.",
        ),
    ] = None,
    time_field: Annotated[
        str,
        typer.Option(metavar="PATH", help="Field with the arrival time, Unix seconds or ISO 8601."),
    ] = "created",
) -> None:
    """Make a recording from answers with the experts that vLLM or SGLang returned.

    vLLM returns them with --enable-return-routed-experts, SGLang with that flag and
    return_routed_experts in the request.
    """
    from eldr_service.lab.recordings.imported import import_answers

    if (hidden_layers is None) != (top_k is None):
        raise typer.BadParameter("--hidden-layers and --top-k go together")
    shape = (hidden_layers, top_k) if hidden_layers and top_k else None
    kept = parsing.layers(layers)
    for path in filter(None, (out, arrivals)):
        if not path.parent.is_dir():
            raise CommandError(f"{path}: no folder {path.parent}")
    try:
        found = import_answers(
            answers, experts, shape, kept, domain_field, time_field if arrivals else None
        )
    except ValueError as error:
        raise CommandError(str(error), _hint(str(error))) from error
    for one in found.malformed[:NAMED]:
        session.note(str(one))
    if len(found.malformed) > NAMED:
        session.note(f"and {len(found.malformed) - NAMED:,} more; --json names them all")
    found.recording.save(out)
    if arrivals:
        arrivals.write_text("".join(map(_line, found.arrivals)), "utf-8")
    document = _document(found, out, arrivals)
    session.answer(document, facts(_summary(found, document)))


def _hint(why: str) -> str:
    if "carries no shape" in why:
        return "give --hidden-layers and --top-k"
    return "give --layers" if "MoE layers must be given" in why else ""


def _line(arrival: tuple[float, int, int]) -> str:
    time, prompt, output = arrival
    row = {"timestamp": time * 1e3, "input_length": prompt, "output_length": output}
    return json.dumps(row) + "\n"


def _document(found: "Imported", out: Path, arrivals: Path | None) -> dict[str, Any]:
    recording, g = found.recording, found.recording.geometry
    prompt = sum(map(recording.prefill_tokens, range(recording.num_requests)))
    rows = 0 if recording.expert_ids is None else len(recording.expert_ids)
    return {
        "file": str(out),
        "requests": recording.num_requests,
        "prompt_tokens": prompt,
        "decode_tokens": rows - prompt,
        "geometry": {"num_layers": g.num_layers, "num_experts": g.num_experts, "top_k": g.top_k},
        "layers": list(found.layers),
        "dense_layers": [n for n in range(found.hidden_layers) if n not in found.layers],
        "domains": len(set(recording.domains.tolist()) - {""}),
        "without_domain": found.without_domain,
        "left_out": {
            "malformed": len(found.malformed),
            "without_experts": found.without_experts,
            "one_token": found.one_token,
            "cut_short": found.cut_short,
        },
        "malformed": [{"place": one.place, "why": one.why} for one in found.malformed],
        **(
            {
                "arrivals": {
                    "file": str(arrivals),
                    "requests": len(found.arrivals),
                    "without_time": found.without_time,
                }
            }
            if arrivals
            else {}
        ),
    }


def _summary(found: "Imported", document: dict[str, Any]) -> list[tuple[str, str]]:
    g, left, dense = document["geometry"], document["left_out"], document["dense_layers"]
    rows = [
        ("recording", document["file"]),
        ("requests", f"{document['requests']:,}"),
        (
            "tokens",
            f"{document['prompt_tokens']:,} of prompts, {document['decode_tokens']:,} decoded",
        ),
        (
            "geometry",
            f"{g['num_layers']} layers x {g['num_experts']} experts, top-{g['top_k']}"
            + (f"; left out as not MoE: {', '.join(map(str, dense))}" if dense else ""),
        ),
    ]
    if document["domains"]:
        rows.append(("domains", f"{document['domains']}; {found.without_domain:,} without"))
    rows.append(
        (
            "left out",
            f"{left['malformed']:,} malformed, {left['without_experts']:,} without experts,"
            f" {left['one_token']:,} of one token, {left['cut_short']:,} cut short",
        )
    )
    if "arrivals" in document:
        told = f"{len(found.arrivals):,} requests; {found.without_time:,} without a time"
        rows.append(("arrivals", f"{document['arrivals']['file']}, {told}"))
    return rows
