"""What a check has found."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

MOST_NAMED = 4


class Outcome(Enum):
    """How it turned out."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    UNKNOWN = "could not check"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The finding of one check.

    Attributes
    ----------
    check : str
        Its name.
    outcome : Outcome
    words : str
        What was found, in one or two sentences.
    fix : str
        What to type or do about it; empty if there is nothing to fix.
    kind : {"daemon", "model", "proxy"}
        What was checked.
    subject : str
        The model's name, or the proxy's URL; empty for the daemon.
    """

    check: str
    outcome: Outcome
    words: str
    fix: str = ""
    kind: str = "daemon"
    subject: str = ""


Result = tuple[Outcome, str, str]
"""How a check turned out, in words, and what to do."""


def ok(words: str) -> Result:
    """Nothing is wrong."""
    return Outcome.OK, words, ""


def warning(words: str, fix: str) -> Result:
    """Requests are served, but not as well as they could be."""
    return Outcome.WARNING, words, fix


def fault(words: str, fix: str) -> Result:
    """Requests fail, or ELDR does nothing for them."""
    return Outcome.FAULT, words, fix


def unknown(words: str, fix: str = "") -> Result:
    """It could not be checked."""
    return Outcome.UNKNOWN, words, fix


def few(names: Collection[str]) -> str:
    """The first of them, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


NO_METRICS = unknown(
    "the daemon's metrics were not read", "--http HOST:PORT, as given to eldr-server"
)
"""For checks that need them."""
