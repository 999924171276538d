"""Where eldr-server serves HTTP: as given, or derived from its gRPC address."""

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
        help="Where eldr-server serves HTTP, replicas separated by commas; by default"
        f" port {PORT} of the gRPC host.",
    ),
]


def replicas(server: str) -> list[Address]:
    """HOST:PORT of each replica; empty for names that gRPC resolves itself."""
    try:
        return [Address.parse(each.strip()) for each in server.split(",")]
    except ValueError:
        return []


def listeners(server: str, http: str | None) -> list[Address]:
    """Where each replica serves HTTP; empty if unknown."""
    return replicas(http) if http else [Address(a.host, PORT) for a in replicas(server)]
