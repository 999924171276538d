"""Where eldr-server serves HTTP: as it is said, or beside its gRPC."""

from typing import Annotated

import typer

from eldr_service.server.address import Address

PORT = 9464


def _addresses(text: str | None) -> str | None:
    try:
        return text and ",".join(str(Address.parse(each.strip())) for each in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Http = Annotated[
    str | None,
    typer.Option(
        "--http",
        envvar="ELDR_HTTP",
        metavar="HOST:PORT",
        callback=_addresses,
        help="Where eldr-server serves HTTP, of replicas with commas between them; by"
        f" default port {PORT} where it serves gRPC.",
    ),
]


def replicas(server: str) -> list[Address]:
    """HOST:PORT of each replica; none of what gRPC resolves by itself."""
    try:
        return [Address.parse(each.strip()) for each in server.split(",")]
    except ValueError:
        return []


def listeners(server: str, http: str | None) -> list[Address]:
    """Where each replica serves HTTP; none where that cannot be told."""
    return replicas(http) if http else [Address(a.host, PORT) for a in replicas(server)]
