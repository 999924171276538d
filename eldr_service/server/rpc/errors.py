"""The domain's errors as gRPC statuses with machine-readable details."""

import random
import re
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from eldr_service.core.errors import (
    EldrError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

DOMAIN = "eldr"
# A status is sent in a trailer, twice, percent or base64 encoded; clients refuse trailers above
# 8 KiB. Text limits are in bytes of UTF-8.
MAX_MESSAGE = 1_024
MAX_DETAIL = 512
UNKNOWN_TOKEN = "unknown token"  # for any fault of a token


class UnauthenticatedError(EldrError):
    """The caller has not identified itself."""


class PermissionDeniedError(EldrError):
    """The caller is known, but may not do this."""


class DeadlineExceededError(EldrError):
    """The caller no longer waits."""


_CODES: tuple[tuple[type[EldrError], grpc.StatusCode], ...] = (
    (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED),
    # FailedPreconditionError, and kinds that foreign policies may define.
    (EldrError, grpc.StatusCode.FAILED_PRECONDITION),
)


def status_code(error: EldrError) -> grpc.StatusCode:
    """Return the gRPC code for a domain error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def to_status(error: EldrError) -> Status:
    """Turn a domain error into a `google.rpc.Status`.

    Its details are always an ErrorInfo; a BadRequest that names the field of an invalid argument;
    and a RetryInfo with the delay after which an exhausted resource is worth another try: randomly
    once to twice the error's, since all who were refused together would otherwise return together.
    """
    info = ErrorInfo(reason=_reason(error), domain=DOMAIN)
    details: list[Message] = [info]
    if isinstance(error, InvalidArgumentError):
        field, expected, found = (
            _clip(text, MAX_DETAIL) for text in (error.field, error.expected, error.found)
        )
        info.metadata.update({"field": field, "expected": expected, "found": found})
        violation = BadRequest.FieldViolation(
            field=field, description=f"expected {expected}, found {found}"
        )
        details.append(BadRequest(field_violations=[violation]))
    elif isinstance(error, ResourceExhaustedError):
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after * random.uniform(1.0, 2.0) * 1e3))
        details.append(RetryInfo(retry_delay=delay))
    status = Status(code=status_code(error).value[0], message=_clip(str(error), MAX_MESSAGE))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(context: grpc.aio.ServicerContext, error: EldrError) -> NoReturn:
    """End the call with the error's status, with details in `grpc-status-details-bin`."""
    status = to_status(error)
    await context.abort(
        status_code(error),
        status.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("abort returned")


def _reason(error: EldrError) -> str:
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def _clip(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")  # lone surrogates cannot be in a message
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "…"
