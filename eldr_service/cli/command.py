"""What all commands share: options, a session with the daemon, and error handling."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from eldr_service.cli.failure import CommandError
from eldr_service.cli.parameters import Command
from eldr_service.cli.session import Session
from eldr_service.core.errors import EldrError
from eldr_service.server.address import Address

PANEL = "Connection and output"
INTERRUPTED = 130  # 128 + SIGINT, as in shells


def _address(text: str) -> str:
    try:
        return str(Address.parse(text))
    except ValueError:
        from eldr_client.addresses import Addresses  # late: it imports gRPC

        try:
            return Addresses(text).text
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def _file_option(*names: str, variable: str, description: str) -> Any:
    return typer.Option(
        *names,
        envvar=variable,
        metavar="FILE",
        help=description,
        exists=True,
        dir_okay=False,
        readable=True,
        rich_help_panel=PANEL,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command, before or after it; those after it win."""

    server: Annotated[
        str,
        typer.Option(
            envvar="ELDR_SERVER",
            metavar="HOST:PORT",
            callback=_address,
            help="Where eldr-server serves gRPC; replicas separated by commas, or dns:///NAME.",
            rich_help_panel=PANEL,
        ),
    ] = "127.0.0.1:50051"
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ELDR_TOKEN",
            help="Bearer token; others on this machine can see it, unlike a variable or a file.",
            rich_help_panel=PANEL,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        _file_option(
            variable="ELDR_TOKEN_FILE", description="File with the bearer token; overrides --token."
        ),
    ] = None
    tls_ca: Annotated[
        Path | None,
        _file_option(
            variable="ELDR_TLS_CA",
            description="Use TLS; authorities (PEM) that verify the server's certificate.",
        ),
    ] = None
    # The variables ELDR_TLS_CERT and ELDR_TLS_KEY are the daemon's own.
    tls_cert: Annotated[
        Path | None,
        _file_option(
            variable="ELDR_CLIENT_TLS_CERT",
            description="Client certificate (PEM), if the server requires one.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        _file_option(variable="ELDR_CLIENT_TLS_KEY", description="Private key of --tls-cert."),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            envvar="ELDR_TIMEOUT",
            metavar="SECONDS",
            min=0.001,
            max=86_400,
            help="Timeout of one call to the server; by default 10, for a fit 600.",
            rich_help_panel=PANEL,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=PANEL),
    ] = False


def bundled(function: Callable[..., None]) -> Callable[..., None]:
    """Expand a parameter that is a dataclass into one option per field."""
    own = inspect.signature(function, eval_str=True).parameters.values()
    bundles: dict[str, Any] = {
        p.name: p.annotation for p in own if dataclasses.is_dataclass(p.annotation)
    }
    options: list[inspect.Parameter] = []
    for parameter in own:
        inside = bundles.get(parameter.name)
        options += inspect.signature(inside).parameters.values() if inside else [parameter]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        for name, bundle in bundles.items():
            fields = {field.name: values.pop(field.name) for field in dataclasses.fields(bundle)}
            values[name] = bundle(**fields)
        function(**values)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    )
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def command(
    app: typer.Typer, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make `function(session, …)` a command, with the common options after its own.

    A failure becomes one line on stderr, or with --json the one document on stdout.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(context: typer.Context, common: Common, **values: Any) -> None:
            session = Session(**vars(_merged(context, common)))
            try:
                with session:
                    function(session, **values)
            except typer.BadParameter as error:
                error.ctx = error.ctx or context  # for the line on usage
                raise
            except KeyboardInterrupt:
                raise typer.Exit(INTERRUPTED) from None
            except CommandError as failure:
                session.fail(failure)
            except UnicodeEncodeError:  # from arguments that are not UTF-8
                session.fail(CommandError("expected arguments in UTF-8"))
            except EldrError as error:
                session.fail(CommandError(str(error)))
            except BrokenPipeError:  # the reader closed the pipe; typer exits quietly
                raise
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                session.fail(CommandError(f"{where}{error.strerror or error}"))

        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        context, common, _ = inspect.signature(run).parameters.values()
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (context, *own, common)]
        )
        app.command(name, cls=Command, help=inspect.getdoc(function))(bundled(run))
        return function

    return register


def _merged(context: typer.Context, after: Common) -> Common:
    """The options before the command, overridden by those after it."""
    written = {
        field.name: getattr(after, field.name)
        for field in dataclasses.fields(Common)
        if (source := context.get_parameter_source(field.name)) and source.name == "COMMANDLINE"
    }
    before: Common = context.obj
    return dataclasses.replace(before, **written)
