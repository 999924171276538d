"""Elements of pictures: every text of one size, every colour a variable of the page's."""

from collections.abc import Iterable
from html import escape

WIDTH = 400  # of every picture, in its own units; the page shows 330 to 450 px of it
TEXT = 11.5  # so that no text is below 9 px there
LETTER = 6.3  # about as wide as a letter is


def element(name: str, inside: str = "", /, **attributes: float | str) -> str:
    """An element; `inside` is markup, `class_` the class, another `_` in a name stands for `-`.

    Numbers are rounded, and what is empty is left out.
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
    """One line, whose middle is at height y."""
    kind = " ".join([*["quiet"] * quiet, *["bold"] * bold])
    return element("text", escape(words), x=x, y=y + 0.35 * TEXT, text_anchor=anchor, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str, style: str = "") -> str:
    """A straight one, of a class of the page's."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind, style=style)


def picture(name: str, height: float, parts: Iterable[str], title: str, description: str) -> str:
    """The whole, `WIDTH` wide, in words too for those who do not see it."""
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
    """A name of so many letters at most."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _value(value: float | str) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
