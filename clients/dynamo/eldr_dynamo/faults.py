"""Maps a worker's failure to the error that the frontend gets."""

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
    """Whether the worker is gone or was never there: another may serve the request."""
    return isinstance(error, _AWAY) or _kind(error) == "Unavailable"


def named(error: Exception) -> Exception:
    """Return the error to raise to the frontend, so that it answers as it would to the worker.

    Dynamo's client raises its own errors as plain exceptions that have their class in the text,
    "Unavailable: …"; raised as they are, they would mean another fault. An
    unavailable worker becomes an HTTP error: on Dynamo's own exception the frontend would take
    this endpoint for gone, and avoid it for a while.
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
