"""Which of a caller's headers go to the engines, and what a request is called."""

import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from multidict import CIMultiDictProxy

MAX_NAME = 256  # characters of a request's id

# The caller, and its trace, tenant or session. Anything else is between client and proxy.
FORWARDED = (
    "Authorization",
    "x-api-key",
    "anthropic-version",
    "anthropic-beta",
    "traceparent",
    "tracestate",
    "baggage",
    "X-Tenant-Id",
    "X-Session-Id",
)
# Of these, what lets its bearer in: for engines that the proxy was told of.
CREDENTIALS = {"authorization", "x-api-key"}
# The proxy's own word.
NOT_FORWARDED = {
    "x-request-id",
    "x-data-parallel-rank",
    "host",
    "connection",
    "expect",
    "accept-encoding",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
}

REQUEST_NAME: ContextVar[str] = ContextVar("REQUEST_NAME")
"""What the request that is being served is called, in the engines' logs as in its answer."""


def forwarded(headers: CIMultiDictProxy[str], names: Iterable[str]) -> dict[str, str]:
    """Those of these names; what is given several times is one list, as HTTP has it."""
    return {name: ",".join(headers.getall(name)) for name in names if name in headers}


def request_name(headers: CIMultiDictProxy[str]) -> str:
    """The caller's X-Request-Id where it can be one, else a new one."""
    said: Any = headers.get("X-Request-Id", "")
    usable = said.isascii() and said.isprintable() and 0 < len(said) <= MAX_NAME
    return said if usable else uuid.uuid4().hex
