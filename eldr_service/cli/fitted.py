"""Fits rows to a terminal: whole lines only, and as many as there is room for."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from eldr_service.cli.tables import RIGHT, table
from eldr_service.core.escaping import escaped

LEAST_WIDTH = 16
"""Least width of a column that is cut to fit; last columns that still do not fit are left out."""
WHOLE = {"WORKER": 40}
"""Columns up to this width are not cut: ids of one fleet differ at the end."""
MORE = "and {} more"

Row = Sequence[str | Text]
Lines = list[list[Segment]]


class Fit:
    """Renders as many rows as fit in a number of lines."""

    def __init__(self, console: Console, options: ConsoleOptions) -> None:
        self._console, self._options = console, options

    def texts(self, texts: Iterable[Text], most: int) -> Lines:
        """One below the other."""
        return self._first(lambda some: Group(*some), list(texts), most, MORE)

    def table(
        self, columns: Sequence[str], rows: Sequence[Row], most: int, more: str = MORE
    ) -> Lines:
        """One line per row, after a blank one: columns are cut to fit, and the last left out."""
        names = [column.removeprefix(RIGHT) for column in columns]
        widths = [max(map(cell_len, map(str, each))) for each in zip(names, *rows, strict=True)]
        least = [WHOLE.get(name, LEAST_WIDTH) for name in names]
        needed = accumulate(1 + min(pair) for pair in zip(widths, least, strict=True))
        shown = max(1, sum(each <= self._options.max_width + 1 for each in needed))

        def made(some: Sequence[Row]) -> RenderableType:
            shape = table(columns[:shown], ([cut(cell) for cell in row[:shown]] for row in some))
            for column, name, width in zip(shape.columns, names, widths, strict=False):
                column.no_wrap = width <= WHOLE.get(name, 0)
            return shape

        return [[], *self._first(made, rows, most - 1, more)][: max(0, most)]

    def _first(
        self, make: Callable[[Sequence[Any]], RenderableType], rows: Sequence[Any], most: int,
        more: str,
    ) -> Lines:  # fmt: skip
        """The lines of the first rows that fit; `more` says how many rows are left out."""

        def rendered(number: int) -> Lines:
            parts = [make(rows[:number])]
            if more and number < len(rows):
                parts.append(line(more.format(len(rows) - number), "dim"))
            return self._console.render_lines(Group(*parts), self._options, pad=False)

        numbers = range(min(len(rows), max(0, most)) + 1)
        fitting = bisect_right(numbers, most, key=lambda number: len(rendered(number)))
        return rendered(max(0, fitting - 1))[: max(0, most)]


def cut(cell: str | Text) -> Text:
    """The cell on one line, cut where it does not fit."""
    text = cell.copy() if isinstance(cell, Text) else Text(cell)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def line(text: str, style: str = "") -> Text:
    """The text as one line, even if it has line breaks."""
    return cut(Text(escaped(text), style))
