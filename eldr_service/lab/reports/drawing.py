"""How a panel is drawn: axes, lines that carry their own names, maps of shares."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from eldr_service.lab.reports.palette import GRID, INK, QUIET

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,  # names of domains are no formulas
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
    "svg.hashsalt": "eldr",  # the same report, the same file
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
WIDTH, HEIGHT = 5.2, 3.3  # inches


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes
    ----------
    name, colour : str
    x, y : sequence of float
    low, high : sequence of float, optional
        Ends of its intervals.
    dashed : bool
    doubtful : sequence of bool, optional
        Points that are drawn hollow.
    """

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    _: KW_ONLY
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    doubtful: Sequence[bool] | None = None


@contextmanager
def style() -> Iterator[None]:
    """Figures are drawn and written under it."""
    with mpl.rc_context(STYLE):
        yield


def plot(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    percent: bool = False,
    across: tuple[float, str] | None = None,
    marks: float | None = None,
) -> Canvas:
    """Lines with their names at the right end.

    Parameters
    ----------
    percent : bool
        The y axis is of relative changes, and zero is drawn.
    across : (y, words), optional
        A horizontal line, such as a target.
    marks : float, optional
        An x to mark: where the report's other figures are.
    """
    canvas = Canvas(figsize=(WIDTH, HEIGHT))
    axes = canvas.add_axes((0.11, 0.15, 0.57, 0.77))
    for line in lines:
        _draw(axes, line)
    if percent:
        axes.axhline(0, color=QUIET, linewidth=0.9)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}%" if value else "0")
    if marks is not None:
        axes.axvline(marks, color=GRID, linewidth=4, zorder=0, alpha=0.6)
    if across is not None:
        axes.axhline(across[0], color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.annotate(
            across[1],
            (0.01, across[0]),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 2.5),
            textcoords="offset points",
            color=QUIET,
            fontsize=7.5,
        )
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left", fontsize=9, color=QUIET, pad=8)
    axes.tick_params(length=0)
    axes.margins(x=0.03)
    _name(canvas, axes, lines)
    return canvas


def _draw(axes: Any, line: Line) -> None:
    how = (0, (3, 1.6)) if line.dashed else "-"
    axes.plot(line.x, line.y, color=line.colour, linewidth=1.6, linestyle=how)
    doubtful = np.array(line.doubtful if line.doubtful is not None else [False] * len(line.x))
    for hollow in (False, True):
        chosen = doubtful == hollow
        axes.plot(
            np.array(line.x)[chosen],
            np.array(line.y)[chosen],
            "o",
            markersize=4,
            color=line.colour,
            markerfacecolor="none" if hollow else line.colour,
        )
    if line.low is not None and line.high is not None:
        axes.vlines(line.x, line.low, line.high, color=line.colour, linewidth=1, alpha=0.6)


def _name(canvas: Canvas, axes: Any, lines: Sequence[Line]) -> None:
    """Put each name beside its line's end, apart from the others, in order of height."""
    shown = [line for line in lines if np.isfinite(line.y[-1])]
    to_pixels = axes.transData.transform
    canvas.draw_without_rendering()
    left, right = axes.get_xlim()
    ends = sorted((float(to_pixels((right, line.y[-1]))[1]), i) for i, line in enumerate(shown))
    gap = 11 * canvas.dpi / 72
    box = axes.get_window_extent()
    heights = spread([height for height, _ in ends], gap, box.y0, box.y1)
    for height, (_, i) in zip(heights, ends, strict=True):
        line = shown[i]
        y = float(axes.transData.inverted().transform((0, height))[1])
        axes.annotate(
            line.name,
            (line.x[-1], line.y[-1]),
            xytext=(right + 0.045 * (right - left), y),
            textcoords="data",
            color=line.colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.colour,
                "linewidth": 0.5,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights, moved as little as needs be to be `gap` apart, between low and high."""
    gap = min(gap, (high - low) / max(1, len(heights) - 1))
    placed = [max(low, height) for height in heights]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    top = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], top)
        top = placed[i] - gap
    return placed


def heat_map(shares: NDArray[np.float64], rows: Sequence[str], colour: str, label: str) -> Canvas:
    """Shares [rows, columns] of each row's sum, the deeper the more."""
    canvas = Canvas(figsize=(WIDTH, 0.85 + 0.19 * max(len(rows), 5)))
    axes = canvas.add_axes(
        (0.27, 0.5 / canvas.get_figheight(), 0.71, 1 - 0.6 / canvas.get_figheight())
    )
    n, columns = shares.shape
    most = float(shares.max()) or 1.0
    for row in range(n):
        for column in range(columns):
            depth = float(shares[row, column]) / most
            axes.add_patch(
                Rectangle(
                    (column + 0.04, row + 0.06), 0.92, 0.88, color=GRID, alpha=0.45, linewidth=0
                )
            )
            if depth > 0:
                axes.add_patch(
                    Rectangle(
                        (column + 0.04, row + 0.06),
                        0.92,
                        0.88,
                        color=colour,
                        alpha=depth,
                        linewidth=0,
                    )
                )
    axes.set(xlim=(0, columns), ylim=(n, 0), xlabel=label)
    axes.set_yticks(np.arange(n) + 0.5, [shortened(row) for row in rows])
    step = max(1, columns // 16)
    axes.set_xticks(
        np.arange(0, columns, step) + 0.5, [str(c + 1) for c in range(0, columns, step)]
    )
    axes.tick_params(length=0, labelsize=7.5)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return canvas


def shortened(name: str, most: int = 18) -> str:
    """A name that fits beside a row."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def svg(canvas: Canvas) -> str:
    """As an SVG document."""
    with style():
        file = StringIO()
        canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return file.getvalue()


def pdf(canvas: Canvas) -> bytes:
    """As a PDF of one page."""
    with style():
        file = BytesIO()
        canvas.savefig(file, format="pdf", transparent=True, metadata={"CreationDate": None})
        return file.getvalue()
