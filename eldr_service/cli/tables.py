"""Formats output for people."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

RIGHT = ">"
UNBOUNDED = 10_000  # columns, if no terminal limits the line


class _Columns(Table):
    """Columns two spaces apart, or one if two do not fit."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.padding = (0, 2, 0, 0)
        whole = self.__rich_measure__(console, options.update(max_width=UNBOUNDED))
        if whole.maximum > options.max_width:
            self.padding = (0, 1, 0, 0)
        return super().__rich_console__(console, options)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Columns without lines, as wide as their content; `>` before a heading right-aligns it.

    What does not fit is wrapped, never cut, so that every id can be copied.
    """
    shown = _Columns(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numbers = column.startswith(RIGHT)
        shown.add_column(
            column.removeprefix(RIGHT), justify="right" if numbers else "left", overflow="fold"
        )
    for row in rows:
        shown.add_row(*row)
    return shown


def facts(pairs: Iterable[tuple[str, Any]]) -> Table:
    """Names and values, one per line."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    for name, value in pairs:
        shown.add_row(name, value if isinstance(value, Text) else str(value))
    return shown


def span(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def moment(unix_seconds: float) -> str:
    """A time in the reader's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_seconds))
