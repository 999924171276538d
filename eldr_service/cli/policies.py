"""`eldr policy`: installed policies, and the one in force for each model."""

from typing import Annotated

import typer
from eldr.v1 import policy_pb2 as pb
from rich.console import RenderableType
from rich.text import Text

from eldr_service.cli.command import command
from eldr_service.cli.models import Model, the_model
from eldr_service.cli.session import Session
from eldr_service.cli.tables import table
from eldr_service.core.errors import InvalidArgumentError

app = typer.Typer(help="Policies, which pick the workers: list, set.", no_args_is_help=True)


@command(app, "list")
def list_policies(
    session: Session,
    offline: Annotated[
        bool, typer.Option("--offline", help="List those installed here, without a daemon.")
    ] = False,
) -> None:
    """List installed policies with their parameters, and the one in force for each model."""
    response = _installed_here() if offline else session.call(pb.ListPoliciesRequest())
    installed = [
        (
            Text(policy.name, "cyan"),
            ", ".join(f"{p.name}={p.default_value}".rstrip("=") for p in policy.parameters),
            policy.description,
        )
        for policy in response.policies
    ]
    # Most policies share parameters, so each parameter is described once.
    parameters = {p.name: p.description for policy in response.policies for p in policy.parameters}
    answer: list[RenderableType] = [
        table(("POLICY", "PARAMETERS", "WHAT"), installed),
        "",
        table(("PARAMETER", "WHAT"), sorted(parameters.items())),
    ]
    if response.active:
        in_force = [
            (active.model, Text(_written(active.name, active.parameters), "green"))
            for active in response.active
        ]
        answer += ["", table(("MODEL", "IN FORCE"), in_force)]
    elif not offline:
        answer += ["", "no model yet, so none in force"]
    session.answer(response, *answer)


@command(app, "set")
def set_policy(
    session: Session,
    policy: Annotated[
        str,
        typer.Argument(metavar="NAME:KEY=VALUE,…", help="Omitted parameters have their defaults."),
    ],
    model: Model = None,
) -> None:
    """Put a policy in force from the next decision on; existing bookings stay."""
    from eldr_service.policies.registry import parse

    try:
        name, parameters = parse(policy)
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="NAME:KEY=VALUE,…") from error
    request = pb.SetPolicyRequest(model=the_model(session, model), name=name, parameters=parameters)
    response = session.call(request)
    active = response.active
    session.answer(
        response, f"{active.model} is routed by {_written(active.name, active.parameters)}"
    )


def _installed_here() -> pb.ListPoliciesResponse:
    from eldr_service.policies.registry import installed
    from eldr_service.server.rpc.writing import policy_info

    return pb.ListPoliciesResponse(policies=map(policy_info, installed().values()))


def _written(name: str, parameters: dict[str, str]) -> str:
    """As `eldr policy set` takes it."""
    written = ",".join(f"{key}={value}" for key, value in sorted(parameters.items()))
    return f"{name}:{written}" if written else name
