"""Which of a caller's headers go to the engines, and a request's name."""

import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from multidict import CIMultiDictProxy

MAX_NAME = 256  # characters of a request's id

# The caller's identity, trace, tenant and session. Others are between client and proxy.
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
# The credentials among them: only for engines in the configuration.
CREDENTIALS = {"authorization", "x-api-key"}
# Set by the proxy itself.
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
"""The name of the current request, in the engines' logs as in its answer."""


def forwarded(headers: CIMultiDictProxy[str], names: Iterable[str]) -> dict[str, str]:
    """The headers with these names; repeated ones are joined to a list, as in HTTP."""
    return {name: ",".join(headers.getall(name)) for name in names if name in headers}


def request_name(headers: CIMultiDictProxy[str]) -> str:
    """The caller's X-Request-Id if it is valid, else a new one."""
    said: Any = headers.get("X-Request-Id", "")
    usable = said.isascii() and said.isprintable() and 0 < len(said) <= MAX_NAME
    return said if usable else uuid.uuid4().hex
