"""`eldr workers drain`: one worker, or all with a label or in a group, until they are empty."""

import time
from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import typer
from eldr.v1 import fleet_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from eldr_service.cli import parsing
from eldr_service.cli.failure import CommandError
from eldr_service.cli.models import Model
from eldr_service.cli.session import Session, as_dict
from eldr_service.cli.worker_model import model_of
from eldr_service.core.words import counted

POLL_SECONDS = 0.25


class Role(Enum):
    """What a worker does."""

    decode = "decode"
    prefill = "prefill"

    def of(self, worker: pb.Worker) -> bool:
        """Whether the worker has this role."""
        return bool(pb.WorkerRole.Name(worker.role) == f"WORKER_ROLE_{self.name.upper()}")


def drain(
    session: Session,
    worker: Annotated[
        str | None, typer.Argument(metavar="[WORKER]", help="The worker's id.", show_default=False)
    ] = None,
    model: Model = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Instead of WORKER: all with this label; repeatable."
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Instead of WORKER: all in this group.")
    ] = None,
    role: Annotated[
        Role | None, typer.Option(help="With --label or --group: only this role.")
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=86_400,
            help="When the remaining bookings end, so that their callers route a higher attempt;"
            " by default they may take as long as they need.",
        ),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Forget each worker once nothing is booked on it.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Return once nothing is booked on any of them; with --remove, once they are gone.",
        ),
    ] = False,
) -> None:
    """Stop placing requests on a worker; those that it has go on."""
    if (worker is None) == (label is None and group is None):
        raise typer.BadParameter("expected one WORKER, or --label or --group", param_hint="WORKER")
    chosen = (
        [(model_of(session, worker, model), worker)]
        if worker is not None
        else _matching(session, model, parsing.pairs(label, "--label"), group, role)
    )
    answers = []
    for name, worker_id in chosen:
        request = pb.DrainWorkerRequest(model=name, worker_id=worker_id, remove=remove)
        if deadline is not None:
            request.deadline.CopyFrom(Duration(nanos=0, seconds=int(deadline)))
            request.deadline.nanos = round(deadline % 1 * 1e9)
        answers.append(session.call(request))
    if wait:
        _wait(session, chosen, gone=remove)
    document = as_dict(answers[0])
    if worker is None:
        document = {
            "workers": [
                {"model": name, "worker_id": worker_id, **as_dict(answer)}
                for (name, worker_id), answer in zip(chosen, answers, strict=True)
            ]
        }
    session.answer(
        document,
        *(
            f"drained {worker_id} of {name}"
            if wait
            else f"draining {worker_id} of {name}:"
            f" {counted(answer.booked_sequences, 'sequence')} booked on it"
            for (name, worker_id), answer in zip(chosen, answers, strict=True)
        ),
    )


def _matching(
    session: Session,
    model: str | None,
    labels: dict[str, str],
    group: str | None,
    role: Role | None,
) -> list[tuple[str, str]]:
    """Model and id of all workers with these labels, group and role."""
    known = session.call(pb.ListWorkersRequest(model=model or "")).workers
    found = [
        (one.model, one.worker_id)
        for one in known
        if labels.items() <= dict(one.labels).items()
        and group in (None, one.group)
        and (role is None or role.of(one))
    ]
    if not found:
        raise CommandError(
            f"none of {counted(len(known), 'worker')} has these labels, this group and role",
            "eldr workers list --json shows what they have",
        )
    return found


def _wait(session: Session, chosen: Sequence[tuple[str, str]], gone: bool) -> None:
    """Poll until nothing is booked on any of them, and print on stderr what is left.

    With `gone`, also until the daemon has forgotten them.
    """
    said = ""
    while True:
        known = session.call(pb.ListWorkersRequest()).workers
        those = [one for one in known if (one.model, one.worker_id) in chosen]
        left = those if gone else [one for one in those if not one.drained]
        if not left:
            return
        back = [one.worker_id for one in left if one.state != pb.WORKER_STATE_DRAINING]
        if back:
            raise CommandError(
                f"{', '.join(back)} registered again, and its new incarnation is not draining",
                "drain it again, or stop its engine",
            )
        sequences = counted(sum(one.booked_sequences for one in left), "sequence")
        if said != (now := f"{sequences} on {counted(len(left), 'worker')}"):
            session.note(f"waiting for {now}", "dim")
            said = now
        time.sleep(POLL_SECONDS)
