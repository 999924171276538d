"""The domain's errors; `server/rpc` turns them into gRPC statuses."""

import difflib
from collections.abc import Hashable, Iterable


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: a similar known one, if any."""
    close = difflib.get_close_matches(found, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class EldrError(Exception):
    """A request that cannot be served as it is."""


class InvalidArgumentError(EldrError):
    """A field is invalid by itself: names it, what was expected and found, and a hint."""

    def __init__(self, field: str, expected: str, found: object, hint: str = "") -> None:
        self.field = field
        self.expected = expected
        self.found = _brief(found)
        self.hint = hint
        super().__init__(f"{field}: expected {expected}, found {self.found}{hint}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        """Make it picklable, which exceptions with their own arguments are not."""
        return type(self), (self.field, self.expected, self.found, self.hint)


class NotFoundError(EldrError):
    """Something named in the request is unknown."""


class FailedPreconditionError(EldrError):
    """The request is well formed, but does not fit the current state."""


class ResourceExhaustedError(EldrError):
    """There is no room now; worth another try after `retry_after` seconds.

    `within` is set if what is missing is a place on a worker: the limits of the request, within
    which all workers are full. The next Release may free one.
    """

    def __init__(self, message: str, retry_after: float, within: Hashable = None) -> None:
        self.retry_after = retry_after
        self.within = within
        super().__init__(message)


class UnavailableError(EldrError):
    """No worker can serve the request."""


def _brief(found: object) -> str:
    text = found if isinstance(found, str) else repr(found)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
