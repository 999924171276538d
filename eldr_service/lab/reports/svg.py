"""SVG elements: one text size, and every colour a CSS variable of the page."""

from collections.abc import Iterable
from html import escape

WIDTH = 400  # of every picture, in its own units; the page shows 330 to 450 px of it
TEXT = 11.5  # so that no text is below 9 px there
LETTER = 6.3  # approximate width of a letter


def element(name: str, inside: str = "", /, **attributes: float | str) -> str:
    """An element; `inside` is markup, `class_` the class, other `_` in names become `-`.

    Numbers are rounded, and empty attributes omitted.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value != ""
    )
    return f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>"


def text(
    words: str, x: float, y: float, *, anchor: str = "start", quiet: bool = True, bold: bool = False
) -> str:
    """One line of text, vertically centred at y."""
    kind = " ".join([*["quiet"] * quiet, *["bold"] * bold])
    return element("text", escape(words), x=x, y=y + 0.35 * TEXT, text_anchor=anchor, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str, style: str = "") -> str:
    """A straight line, of a CSS class of the page."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind, style=style)


def picture(name: str, height: float, parts: Iterable[str], title: str, description: str) -> str:
    """A whole picture, `WIDTH` wide, with a description for readers who cannot see it."""
    return element(
        "svg",
        element("title", escape(title), id=f"{name}-title")
        + element("desc", escape(description), id=f"{name}-desc")
        + "".join(parts),
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-desc",
    )


def shortened(name: str, most: int) -> str:
    """A name of at most `most` letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _value(value: float | str) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
