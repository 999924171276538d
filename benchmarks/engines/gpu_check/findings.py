"""Findings of the check's parts, for the table and for programs."""

from dataclasses import dataclass, field
from typing import Any

EXACT, NOTICED, MEASURED, SKIPPED, WRONG = "exact", "noticed", "measured", "skipped", "WRONG"


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the table.

    Attributes
    ----------
    what : str
    found : str
        Figures, or why it was skipped.
    verdict : {"exact", "noticed", "measured", "skipped", "WRONG"}
    figures : mapping
        The same for programs.
    """

    what: str
    found: str
    verdict: str
    figures: dict[str, Any] = field(default_factory=dict)


def compared(what: str, found: str, same: bool, **figures: Any) -> Finding:
    """A row for something that must be exact."""
    return Finding(what, found, EXACT if same else WRONG, figures)


def skipped(what: str, why: str) -> Finding:
    """A row for something that cannot be tried here."""
    return Finding(what, why, SKIPPED)
