"""The parts of a report's section."""

from dataclasses import KW_ONLY, dataclass
from typing import Protocol


class Picture(Protocol):
    """Something that draws itself."""

    def draw(self, name: str, title: str, description: str) -> str:
        """An <svg> element; `name` must be unique on the page."""
        ...


@dataclass(frozen=True)
class Table:
    """Words in rows, with cells of a few lines; all columns except the first are numbers.

    `marked` is the row of the policy that the verdict names.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None


@dataclass(frozen=True)
class Panel:
    """A picture, and a description for readers who cannot see it."""

    title: str
    description: str
    picture: Picture


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes
    ----------
    name, title, text : str
    panels : tuple of Panel
    table : Table
    figure : str
        Its name for --figure; empty if it needs no sweep.
    """

    name: str
    title: str
    text: str
    _: KW_ONLY
    panels: tuple[Panel, ...]
    table: Table
    figure: str = ""
