"""What a section of the report is made of."""

from dataclasses import KW_ONLY, dataclass
from typing import Protocol


class Picture(Protocol):
    """What draws itself."""

    def draw(self, name: str, title: str, description: str) -> str:
        """An <svg> element; `name` is unlike that of every other picture on the page."""
        ...


@dataclass(frozen=True)
class Table:
    """Words in rows, a cell of a few lines; all columns but the first are of numbers.

    `marked` is the row of the policy that the verdict names.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None


@dataclass(frozen=True)
class Panel:
    """A picture, and what it shows in words for those who do not see it."""

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
        What --figure calls it; empty: it takes no sweep.
    """

    name: str
    title: str
    text: str
    _: KW_ONLY
    panels: tuple[Panel, ...]
    table: Table
    figure: str = ""
