"""Who may call what: bearer tokens, their roles, and the interceptor that asks for them."""

import asyncio
import hashlib
import hmac
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from eldr_service.core.errors import EldrError, did_you_mean
from eldr_service.server.rpc.errors import PermissionDeniedError, UnauthenticatedError, abort

ROLES = frozenset({"route", "worker", "admin"})
MIN_TOKEN_CHARACTERS = 16
# How long a caller may finish what it says before it is refused.
PATIENCE_SECONDS = 0.1

_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = ("/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
_ROUTER = "/eldr.v1.RouterService/"
_OF_WORKERS = frozenset(
    {"/eldr.v1.FleetService/RegisterWorker", "/eldr.v1.FleetService/ReportLoad"}
)

log = structlog.get_logger()


class TokensFileError(Exception):
    """The tokens file cannot be used; says where and why, and never shows a token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token stands for."""

    name: str
    roles: frozenset[str]

    def may_call(self, method: str) -> bool:
        """Whether the roles allow the full method name, known to the daemon or not."""
        if "admin" in self.roles or method.startswith(_REFLECTION):
            return True
        if method.startswith(_ROUTER):
            return True  # each role includes RouterService
        return "worker" in self.roles and method in _OF_WORKERS


class Tokens:
    """The callers of a tokens file. Holds digests only, no token.

    The file has a table ``[[tokens]]`` for each, with `name`, `token` (at least 16 printable ASCII
    characters without spaces) and `roles`, a list of "route", "worker" and "admin".

    Raises
    ------
    TokensFileError
        When the file cannot be read or anything in it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._callers: tuple[tuple[bytes, Caller], ...] = ()
        self.reload()

    def reload(self) -> None:
        """Read the file again; when it is wrong, what was read before stays in force.

        Calls that have begun, streams among them, go on.
        """
        try:
            mode = self._path.stat().st_mode
            table = tomllib.loads(self._path.read_text("utf-8"))
        except OSError as error:
            raise TokensFileError(f"{self._path}: {error.strerror}") from error
        except ValueError as error:  # neither UTF-8 nor TOML; its text may hold what was read
            raise TokensFileError(f"{self._path} is no TOML file") from error
        if mode & 0o004:
            log.warning("anyone on this machine can read the tokens", file=str(self._path))
        self._callers = self._read(table)

    def find(self, token: str) -> Caller | None:
        """Return the caller that the token stands for, in a time that does not depend on it."""
        digest = _digest(token)
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _read(self, table: dict[str, Any]) -> tuple[tuple[bytes, Caller], ...]:
        entries = table.pop("tokens", None)
        if table or not isinstance(entries, list) or not entries:
            raise TokensFileError(f"{self._path}: expected [[tokens]] tables and nothing else")
        callers: dict[bytes, Caller] = {}
        for number, entry in enumerate(entries, start=1):
            try:
                digest, caller = _read_entry(entry)
            except ValueError as error:
                raise TokensFileError(f"{self._path}: token {number}: {error}") from error
            if digest in callers:
                raise TokensFileError(
                    f"{self._path}: token {number}: the same as that of {callers[digest].name}"
                )
            callers[digest] = caller
        return tuple(callers.items())


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through only with a token that has the role for it.

    Refuses before the handler is looked up and without decoding a request, so that the answer says
    nothing of what there is. Health checks need no token, reflection needs any valid one. Without
    tokens everything is allowed.

    Parameters
    ----------
    tokens : Tokens or None
    refused : callable (full method name, error), optional
        Told of each refusal.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        refused: Callable[[str, EldrError], None] = lambda *_: None,
    ) -> None:
        self._tokens = tokens
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Answer with the service's handler, or with one that refuses."""
        method = handler_call_details.method
        if self._tokens is None or method.startswith(_HEALTH):
            return await continuation(handler_call_details)
        if error := self._objection(method, handler_call_details.invocation_metadata):
            self._refused(method, error)
            return _refuse(error)
        return await continuation(handler_call_details)

    def _objection(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]]
    ) -> EldrError | None:
        assert self._tokens
        token = _bearer_token(metadata)
        if token is None:
            return UnauthenticatedError("expected the metadata authorization: Bearer TOKEN")
        caller = self._tokens.find(token)
        if caller is None:
            return UnauthenticatedError("unknown token")
        if not caller.may_call(method):
            return PermissionDeniedError(f"token {caller.name} lacks the role for this call")
        return None


def _read_entry(entry: object) -> tuple[bytes, Caller]:
    if not isinstance(entry, dict) or entry.keys() != {"name", "token", "roles"}:
        raise ValueError("expected the keys name, token and roles")
    name, token, roles = entry["name"], entry["token"], entry["roles"]
    if not isinstance(name, str) or not name:
        raise ValueError("name: expected text")
    if not isinstance(token, str) or len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(f"token: expected at least {MIN_TOKEN_CHARACTERS} characters")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("token: expected printable ASCII characters without spaces")
    if not isinstance(roles, list) or not roles:
        raise ValueError(f"roles: expected a list with some of {', '.join(sorted(ROLES))}")
    for role in roles:
        if not isinstance(role, str) or role not in ROLES:
            hint = did_you_mean(str(role), ROLES)
            raise ValueError(f"roles: expected {', '.join(sorted(ROLES))}, found {role!r}{hint}")
    return _digest(token), Caller(name, frozenset(roles))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bearer_token(metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) != 1:  # of two, each reader could take another
        return None
    scheme, _, token = str(values[0]).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _refuse(error: EldrError) -> grpc.RpcMethodHandler:
    """Handle a call of any kind by refusing it.

    On the wire all kinds of call are one; a stream's handler without a deserializer serves for all
    and decodes nothing.
    """

    async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        # grpc.aio's client turns a refusal that overtakes what it still writes into INTERNAL.
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for _ in requests:
                    pass
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
