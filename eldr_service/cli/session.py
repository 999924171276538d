"""One command's conversation: calls to the daemon, and the command's answer."""

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
    """Parameters are the common options; the connection is made by the first call."""

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
            raise typer.BadParameter("--tls-cert and --tls-key need each other")
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
        """Any of its files is given."""
        return any(self.tls)

    def credentials(self) -> tuple[tuple[str, str], ...]:
        """Who we are, as a header: none without a token. Files are read anew."""
        token = self._token or ""
        if self._token_file:
            token = self._token_file.read_text("utf-8", "replace").strip()
        if not (token.isascii() and token.isprintable()):
            raise typer.BadParameter("a token is printable ASCII characters")
        return (("authorization", f"Bearer {token}"),) if token else ()

    def call(self, request: Message, timeout: float = 10.0) -> Any:
        """Make the call that takes this kind of request, and return its response.

        Parameters
        ----------
        request : Message
        timeout : float
            Seconds that it may take, unless --timeout says so.

        Raises
        ------
        CommandError
            The daemon cannot be reached, or refuses.
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
        """Give the command's one answer: the document to programs, the lines to people."""
        if self.json:
            print(json_module.dumps(as_dict(document), indent=2), flush=True)
            return
        for line in lines:
            self.out.print(line, soft_wrap=isinstance(line, str))

    def note(self, text: str, style: str = "") -> None:
        """Say something beside the answer, on stderr."""
        self.err.print(text, style=style, soft_wrap=True)

    def fail(self, failure: CommandError) -> NoReturn:
        """Say what went wrong and end the command."""
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
                ("grpc.max_reconnect_backoff_ms", 1_000),  # not two minutes: eldr top goes on
                ("grpc.enable_http_proxy", 0),  # a router is near; proxies are for the web
            ]
            if self.uses_tls:
                pem = [path and path.read_bytes() for path in self.tls]
                credentials = grpc.ssl_channel_credentials(*pem)
                self._channel = grpc.secure_channel(addresses.target(), credentials, options)
            else:
                self._channel = grpc.insecure_channel(addresses.target(), options)
        return self._channel


def _grpc() -> Any:
    """Import gRPC late: it takes a tenth of a second that --help has no use for."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the call's own error says it once
    import grpc

    return grpc


def as_dict(document: Message | dict[str, Any]) -> dict[str, Any]:
    """The contract's own JSON of a message, with its names and with what is empty."""
    if isinstance(document, dict):
        return document
    written: dict[str, Any] = MessageToDict(
        document, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return written


def _method_taking(request: Message) -> tuple[str, Any]:
    """The full name of the method that takes such a request, and its response's class.

    No two methods of the contract share a request message.
    """
    for service in request.DESCRIPTOR.file.services_by_name.values():
        for method in service.methods:
            if method.input_type.full_name == request.DESCRIPTOR.full_name:
                return f"/{service.full_name}/{method.name}", GetMessageClass(method.output_type)
    raise AssertionError(f"{request.DESCRIPTOR.full_name} is no request")


class _Console(Console):
    """Writes out controls in what it prints: ids and errors from elsewhere could hold them."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments, their texts escaped."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else Segment(escaped(segment.text, keep="\n"), segment.style)
            )


def _console(stream: Any) -> Console:
    """A console that prints what it is given as it is: ids are no markup."""
    terminal = stream.isatty()
    return _Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if terminal else UNBOUNDED,
    )
