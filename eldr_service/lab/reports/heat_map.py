"""Shares of groups' requests by worker as shades, with a scale below."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.reports.palette import variable
from eldr_service.lab.reports.svg import LETTER, WIDTH, element, picture, shortened, text
from eldr_service.lab.reports.words import percent

ROW = 17.0
MOST_LETTERS = 16  # of a group's name
LEFT = 8 + LETTER * MOST_LETTERS
STEPS = 6  # of the scale


@dataclass(frozen=True)
class HeatMap:
    """Rows of shares.

    Attributes
    ----------
    shares : ndarray of float64, shape [rows, columns]
        Shares of each row's sum.
    rows : sequence of str
    few : sequence of bool
        Rows with too few requests to tell, drawn grey.
    most : float
        The share with the deepest shade: the same for all maps to be compared.
    colour, label : str
        The light colour; the label of the columns.
    """

    shares: NDArray[np.float64]
    rows: Sequence[str]
    few: Sequence[bool]
    most: float
    colour: str
    label: str

    def draw(self, name: str, title: str, description: str) -> str:
        """An <svg> element; `name` must be unique on the page."""
        return picture(name, self._bottom + 52, self._parts(), title, description)

    @property
    def _bottom(self) -> float:
        return ROW * len(self.rows)

    def _parts(self) -> Iterator[str]:
        columns = self.shares.shape[1]
        width = (WIDTH - LEFT) / columns
        for i, row in enumerate(self.rows):
            top = i * ROW
            yield text(shortened(row, MOST_LETTERS), LEFT - 6, top + ROW / 2, anchor="end")
            for column in range(columns):
                depth = 0.0 if self.few[i] else float(self.shares[i, column]) / self.most
                yield self._cell(LEFT + column * width, top, width, depth)
            if self.few[i]:
                yield text("too few to tell", LEFT + 4, top + ROW / 2)
        step = max(1, -(-columns // 16))
        for column in range(0, columns, step):
            place = LEFT + (column + 0.5) * width
            yield text(str(column + 1), place, self._bottom + 10, anchor="middle")
        yield text(self.label, (LEFT + WIDTH) / 2, self._bottom + 26, anchor="middle")
        yield from self._scale(self._bottom + 36)

    def _scale(self, top: float) -> Iterator[str]:
        least, most = "0%", f"{percent(self.most, signed=False)} of a row's requests"
        end = WIDTH - LETTER * len(most)
        start = end - 6 - STEPS * ROW
        for step in range(STEPS):
            yield self._cell(start + step * ROW, top, ROW, step / (STEPS - 1))
        yield text(least, start - 5, top + ROW / 2, anchor="end")
        yield text(most, end, top + ROW / 2)

    def _cell(self, x: float, y: float, width: float, depth: float) -> str:
        place = {"x": x + 0.5, "y": y + 0.5, "width": width - 1, "height": ROW - 1}
        below = element("rect", **place, class_="empty")
        if depth <= 0:
            return below
        style = f"fill:var({variable(self.colour)});fill-opacity:{min(1.0, depth):.2f}"
        return below + element("rect", **place, style=style)


def too_few(requests: NDArray[np.float64], workers: int) -> NDArray[np.bool_]:
    """Whether an even spread of each group would leave fewer than two requests per worker."""
    return requests < 2 * workers
