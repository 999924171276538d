"""Which model is meant where none is said."""

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
        help="By the name under which its workers registered; needed only where the daemon knows"
        " several.",
    ),
]


def the_model(session: Session, said: str | None) -> str:
    """Return the model that was said, or the only one that the daemon knows.

    Raises
    ------
    typer.BadParameter
        It knows several, or the token is not of the role that may ask.
    CommandError
        It knows none.
    """
    if said:
        return said
    try:
        known = [active.model for active in session.call(policy_pb2.ListPoliciesRequest()).active]
    except CommandError as error:
        if error.code != "PERMISSION_DENIED":
            raise
        hint = "needed, as the token may not ask which models there are"
        raise typer.BadParameter(hint, param_hint="--model") from error
    if not known:
        raise CommandError(
            f"{session.server} knows no model yet",
            "it learns of one by its first worker: eldr workers add",
        )
    return one_of(known)


def one_of(models: list[str]) -> str:
    """Return the only one of the models; typer.BadParameter when there are more."""
    if len(models) > 1:
        raise typer.BadParameter(f"say which one: {', '.join(models)}", param_hint="--model")
    return models[0]
