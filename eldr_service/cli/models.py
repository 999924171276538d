"""Which model a command means when none is given."""

from typing import Annotated

import typer
from eldr.v1 import policy_pb2

from eldr_service.cli.failure import CommandError
from eldr_service.cli.session import Session

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="The name that its workers registered; required only if the daemon knows several"
        " models.",
    ),
]


def the_model(session: Session, said: str | None) -> str:
    """Return the given model, or the only one that the daemon knows.

    Raises
    ------
    typer.BadParameter
        The daemon knows several, or the token's role may not list them.
    CommandError
        The daemon knows none.
    """
    if said:
        return said
    try:
        known = [active.model for active in session.call(policy_pb2.ListPoliciesRequest()).active]
    except CommandError as error:
        if error.code != "PERMISSION_DENIED":
            raise
        hint = "required, as the token may not list models"
        raise typer.BadParameter(hint, param_hint="--model") from error
    if not known:
        raise CommandError(
            f"{session.server} knows no model yet",
            "a model becomes known with its first worker: eldr workers add",
        )
    return one_of(known)


def one_of(models: list[str]) -> str:
    """Return the only one of the models; typer.BadParameter when there are more."""
    if len(models) > 1:
        raise typer.BadParameter(f"expected one of {', '.join(models)}", param_hint="--model")
    return models[0]
