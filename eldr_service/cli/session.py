"""A command's session: calls to the daemon, and the command's output."""

import json as json_module
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from eldr_service.cli.failure import CommandError, of_call
from eldr_service.cli.tables import UNBOUNDED
from eldr_service.core.escaping import escaped

MAX_MESSAGE_BYTES = 64 << 20  # the daemon's own limit; partitions are the largest


class Session:
    """The parameters are the common options; the first call connects."""

    def __init__(
        self,
        server: str,
        token: str | None,
        token_file: Path | None,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        timeout: float | None,
        json: bool,
    ) -> None:
        if (tls_cert is None) != (tls_key is None):
            raise typer.BadParameter("--tls-cert and --tls-key go together")
        self.server, self.timeout, self.json = server, timeout, json
        self._token, self._token_file = token, token_file
        self.tls = tls_ca, tls_key, tls_cert
        self._channel: Any = None
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._channel:
            self._channel.close()

    @property
    def uses_tls(self) -> bool:
        """Whether any TLS file is given."""
        return any(self.tls)

    def credentials(self) -> tuple[tuple[str, str], ...]:
        """The authorization header, empty without a token. The token file is read each time."""
        token = self._token or ""
        if self._token_file:
            token = self._token_file.read_text("utf-8", "replace").strip()
        if not (token.isascii() and token.isprintable()):
            raise typer.BadParameter("expected a token of printable ASCII characters")
        return (("authorization", f"Bearer {token}"),) if token else ()

    def call(self, request: Message, timeout: float = 10.0) -> Any:
        """Call the method that takes this type of request, and return its response.

        Parameters
        ----------
        request : Message
        timeout : float
            Seconds, unless --timeout says otherwise.

        Raises
        ------
        CommandError
            The daemon cannot be reached, or refuses the call.
        """
        grpc = _grpc()
        method, response = _method_taking(request)
        stub = self._connected().unary_unary(
            method, type(request).SerializeToString, response.FromString
        )
        timeout = self.timeout or timeout
        try:
            return stub(request, timeout=timeout, metadata=self.credentials())
        except grpc.RpcError as error:
            raise of_call(error, method, self.server, timeout) from error

    def answer(self, document: Message | dict[str, Any], *lines: RenderableType) -> None:
        """Print the command's output: the document with --json, else the lines."""
        if self.json:
            print(json_module.dumps(as_dict(document), indent=2), flush=True)
            return
        for line in lines:
            self.out.print(line, soft_wrap=isinstance(line, str))

    def note(self, text: str, style: str = "") -> None:
        """Print a remark on stderr."""
        self.err.print(text, style=style, soft_wrap=True)

    def fail(self, failure: CommandError) -> NoReturn:
        """Report the failure and exit."""
        if self.json:
            self.answer(failure.document())
        else:
            self.note(f"error: {failure}", "red")
        raise typer.Exit(1)

    def _connected(self) -> Any:
        if self._channel is None:
            grpc = _grpc()
            from eldr_client.addresses import Addresses

            addresses = Addresses(self.server)
            options = [
                *addresses.options(),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_reconnect_backoff_ms", 1_000),  # not two minutes: eldr top keeps going
                ("grpc.enable_http_proxy", 0),  # the router is nearby; proxies are for the web
            ]
            if self.uses_tls:
                pem = [path and path.read_bytes() for path in self.tls]
                credentials = grpc.ssl_channel_credentials(*pem)
                self._channel = grpc.secure_channel(addresses.target(), credentials, options)
            else:
                self._channel = grpc.insecure_channel(addresses.target(), options)
        return self._channel


def _grpc() -> Any:
    """Import gRPC late: it takes a tenth of a second, which --help need not."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the call's own error is enough
    import grpc

    return grpc


def as_dict(document: Message | dict[str, Any]) -> dict[str, Any]:
    """A message as protobuf JSON, with the contract's names and empty fields."""
    if isinstance(document, dict):
        return document
    written: dict[str, Any] = MessageToDict(
        document, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return written


def _method_taking(request: Message) -> tuple[str, Any]:
    """The full name of the method that takes this type of request, and its response's class.

    No two methods of the contract share a request message.
    """
    for service in request.DESCRIPTOR.file.services_by_name.values():
        for method in service.methods:
            if method.input_type.full_name == request.DESCRIPTOR.full_name:
                return f"/{service.full_name}/{method.name}", GetMessageClass(method.output_type)
    raise AssertionError(f"{request.DESCRIPTOR.full_name} is not a request")


class _Console(Console):
    """Escapes control characters in its output: foreign ids and errors may contain them."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments with their texts escaped."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else Segment(escaped(segment.text, keep="\n"), segment.style)
            )


def _console(stream: Any) -> Console:
    """A console that prints text verbatim: ids are not markup."""
    terminal = stream.isatty()
    return _Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if terminal else UNBOUNDED,
    )
