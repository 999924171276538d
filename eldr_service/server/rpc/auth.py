"""Who may call what: bearer tokens, their roles, and the interceptor that checks them."""

import asyncio
import hashlib
import hmac
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog

from eldr_service.core.errors import EldrError, did_you_mean
from eldr_service.core.escaping import unfit
from eldr_service.server.rpc.caller import CALLER, ROLES, Caller, Models
from eldr_service.server.rpc.errors import (
    UNKNOWN_TOKEN,
    PermissionDeniedError,
    UnauthenticatedError,
    abort,
)
from eldr_service.server.rpc.expiry import ending_with

MIN_TOKEN_CHARACTERS = 16
# How long a caller may finish sending before it is refused.
PATIENCE_SECONDS = 0.1

_HEALTH = "/grpc.health.v1.Health/"

log = structlog.get_logger()


class TokensFileError(Exception):
    """The tokens file cannot be used; says where and why, but never shows a token."""


class Tokens:
    """The callers in a tokens file. Holds only digests, no tokens.

    The file has a table ``[[tokens]]`` for each, with `name`, `token` (at least 16 printable ASCII
    characters without spaces), `roles`, a list of "route", "worker" and "admin", and, for a token
    that is not for all models, `models`, a list of names in which `*` matches any characters.

    Raises
    ------
    TokensFileError
        The file cannot be read, or anything in it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._callers: tuple[tuple[bytes, Caller], ...] = ()
        self.reload()

    def reload(self) -> None:
        """Reread the file; if it is wrong, the previous contents stay in force.

        Calls in progress, including streams, go on.
        """
        try:
            mode = self._path.stat().st_mode
            table = tomllib.loads(self._path.read_text("utf-8"))
        except OSError as error:
            raise TokensFileError(f"{self._path}: {error.strerror}") from error
        except ValueError as error:  # not UTF-8 or not TOML; the error may quote the file
            raise TokensFileError(f"{self._path} is not a TOML file") from error
        if mode & 0o004:
            log.warning("anyone on this machine can read the tokens", file=str(self._path))
        self._callers = self._read(table)

    def find(self, token: str) -> Caller | None:
        """Return the caller that the token stands for, in constant time."""
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


class Verifier(Protocol):
    """Verifies signed tokens: `signed_tokens.SignedTokens`, whose library is an extra."""

    def known(self, token: str) -> Caller | None: ...  # noqa: D102

    async def verify(self, token: str) -> Caller: ...  # noqa: D102


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls only with a token that has the required role, and sets the caller.

    Refuses before the handler is looked up and without decoding a request, so that the answer
    reveals nothing. Health checks need no token, reflection needs any valid one. Without tokens of
    either kind everything is allowed. Streams end when their token expires.

    Parameters
    ----------
    tokens : Tokens or None
    refused : callable (full method name, error), optional
        Told of each refusal.
    signed : Verifier, optional
        Verifies tokens that are not among `tokens`.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        refused: Callable[[str, EldrError], None] = lambda *_: None,
        signed: Verifier | None = None,
    ) -> None:
        self._tokens = tokens
        self._refused = refused
        self._signed = signed

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Return the service's handler, or one that refuses."""
        method = handler_call_details.method
        if (self._tokens is None and self._signed is None) or method.startswith(_HEALTH):
            return await continuation(handler_call_details)
        try:
            caller = await self._caller(handler_call_details.invocation_metadata)
            if not caller.may_call(method):
                raise PermissionDeniedError(f"token {caller.name} lacks the role for this call")
        except EldrError as error:
            self._refused(method, error)
            return _refuse(error)
        CALLER.set(caller)  # the handler runs in the same task
        return ending_with(caller, await continuation(handler_call_details))

    async def _caller(self, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
        token = _bearer_token(metadata)
        if token is None:
            raise UnauthenticatedError("expected the metadata authorization: Bearer TOKEN")
        return await self.caller_of(token)

    async def caller_of(self, token: str) -> Caller:
        """The caller that a token of either kind stands for.

        Raises
        ------
        UnauthenticatedError
        """
        caller = self._tokens.find(token) if self._tokens else None
        if caller is None and self._signed:
            caller = self._signed.known(token) or await self._signed.verify(token)
        if caller is None:
            raise UnauthenticatedError(UNKNOWN_TOKEN)
        return caller


def _read_entry(entry: object) -> tuple[bytes, Caller]:
    if not isinstance(entry, dict) or entry.keys() - {"models"} != {"name", "token", "roles"}:
        raise ValueError("expected the keys name, token and roles, and perhaps models")
    name, token, roles = entry["name"], entry["token"], entry["roles"]
    if not isinstance(name, str) or not name or unfit(name):
        raise ValueError("name: expected text without control characters")
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
    try:
        models = Models(entry["models"]) if "models" in entry else None
    except ValueError as error:
        raise ValueError(f"models: {error}") from error
    return _digest(token), Caller(name=name, roles=frozenset(roles), models=models)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bearer_token(metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) != 1:  # with two, readers could disagree
        return None
    scheme, _, token = str(values[0]).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _refuse(error: EldrError) -> grpc.RpcMethodHandler:
    """A handler that refuses a call of any kind.

    On the wire all kinds of call look alike; a stream's handler without a deserializer serves for
    all and decodes nothing.
    """

    async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        # grpc.aio's client turns a refusal that overtakes its own writes into INTERNAL.
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for _ in requests:
                    pass
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
