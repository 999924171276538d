"""Errors, one class per gRPC status, with the details that the router sent."""

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DOMAIN = "eldr"
_DETAILS_KEY = "grpc-status-details-bin"


class EldrError(Exception):
    """A call that was not served.

    Attributes
    ----------
    code : grpc.StatusCode
    reason : str
        The router's code for the cause (ErrorInfo.reason); empty if it gave none.
    """

    def __init__(self, message: str, code: grpc.StatusCode, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(message)


class InvalidArgumentError(EldrError):
    """A field is invalid by itself.

    Attributes
    ----------
    field, expected, found : str
        The first violation; empty if the router did not say.
    violations : tuple of (field, description)
        All of them.
    """

    field = expected = found = ""
    violations: tuple[tuple[str, str], ...] = ()


class NotFoundError(EldrError):
    """What the call names is not known."""


class FailedPreconditionError(EldrError):
    """The call does not fit the current state."""


class ResourceExhaustedError(EldrError):
    """There is no room now. `retry_after`: seconds to wait; None if the router did not say."""

    retry_after: float | None = None


class UnavailableError(EldrError):
    """The router's answer: the model has no worker that may serve this."""


class UnauthenticatedError(EldrError):
    """No token, or an unknown one."""


class PermissionDeniedError(EldrError):
    """The token lacks the role."""


class RouterUnavailableError(EldrError):
    """The router did not answer, and no worker is known to fall back on."""


class RouterFaultError(EldrError):
    """The answer violates the contract: a fault of the router, or of something in between."""


_CLASSES: dict[grpc.StatusCode, type[EldrError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Statuses that gRPC itself gives when no server answered; only the router adds its ErrorInfo. A
# router that stops cancels calls in flight.
_SILENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}


def from_rpc_error(error: grpc.RpcError) -> EldrError:
    """The typed error for a failed call, sync or asyncio."""
    status = status_pb2.Status()
    try:
        metadata = error.trailing_metadata() or ()
        status.ParseFromString(next((v for k, v in metadata if k == _DETAILS_KEY), b""))
    except DecodeError:
        pass  # written by something in between; the code still counts
    return _typed(error.code(), error.details() or error.code().name, _Details(status))


def from_status(status: status_pb2.Status) -> EldrError:
    """The typed error for the answer to one message of a stream."""
    return _typed(_CODES[status.code], status.message, _Details(status))


def _typed(code: grpc.StatusCode, message: str, details: "_Details") -> EldrError:
    if details.info.domain != _DOMAIN and code in _SILENT:
        return RouterUnavailableError(message, code)
    failure = _CLASSES.get(code, RouterFaultError)(message, code, details.info.reason)
    if isinstance(failure, InvalidArgumentError):
        violations = details.bad_request.field_violations
        failure.violations = tuple((each.field, each.description) for each in violations)
        field, text = failure.violations[0] if failure.violations else ("", "")
        expected, _, found = text.removeprefix("expected ").partition(", found ")
        # The metadata is unambiguous, the sentence is not.
        metadata = details.info.metadata
        failure.field = field or metadata.get("field", "")
        failure.expected = metadata.get("expected", expected)
        failure.found = metadata.get("found", found)
    elif isinstance(failure, ResourceExhaustedError) and details.retry is not None:
        failure.retry_after = details.retry.retry_delay.ToTimedelta().total_seconds()
    return failure


class _Details:
    """The google.rpc details of one error, as far as this client knows them."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.info = error_details_pb2.ErrorInfo()
        self.bad_request = error_details_pb2.BadRequest()
        self.retry: error_details_pb2.RetryInfo | None = None
        for detail in status.details:
            if detail.Is(self.info.DESCRIPTOR):
                detail.Unpack(self.info)
            elif detail.Is(self.bad_request.DESCRIPTOR):
                detail.Unpack(self.bad_request)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                self.retry = error_details_pb2.RetryInfo()
                detail.Unpack(self.retry)
