"""What a worker's failure is, as the frontend is to be told it."""

from dynamo.llm import HttpError
from dynamo.llm.exceptions import (
    CannotConnect,
    ConnectionTimeout,
    Disconnected,
    DynamoException,
    EngineShutdown,
    InvalidArgument,
    StreamIncomplete,
    Unknown,
    WorkerUnavailable,
)

_AWAY = (
    CannotConnect,
    ConnectionTimeout,
    Disconnected,
    EngineShutdown,
    StreamIncomplete,
    WorkerUnavailable,
)


def is_away(error: Exception) -> bool:
    """The worker is not there, or not any more: another one may serve the request."""
    return isinstance(error, _AWAY) or _kind(error) == "Unavailable"


def named(error: Exception) -> Exception:
    """The error to raise for it towards the frontend, which then answers as it would to the worker.

    Dynamo's client raises its own errors as plain exceptions that have their class in the text,
    "Unavailable: …"; raised as they are, they would mean another fault. A worker that is away is
    told as an HTTP error: by Dynamo's own exception the frontend would think that this endpoint is
    gone, and leave it alone for a while.
    """
    told: Exception = error
    if is_away(error):
        told = HttpError(503, str(error))
    elif _kind(error) == "InvalidRequest":
        told = InvalidArgument(str(error))
    elif not isinstance(error, DynamoException):
        told = Unknown(str(error))
    return told


def _kind(error: Exception) -> str:
    return "" if isinstance(error, DynamoException) else str(error).partition(":")[0]
