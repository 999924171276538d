"""Matplotlib's SVG made part of a page: the page's font and colours, unique ids, a description."""

import re
from html import escape

from eldr_service.lab.reports.palette import LIGHT_TO_DARK


def variable(colour: str) -> str:
    """The CSS variable of a light colour."""
    return f"--c-{colour.removeprefix('#')}"


def inline(svg: str, name: str, title: str, description: str) -> str:
    """An <svg> element for a page.

    Parameters
    ----------
    svg : str
        A document of matplotlib's.
    name : str
        Unlike that of every other picture on the page.
    """
    body = svg[svg.index("<svg") :]
    opening, _, body = body.partition(">")
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None  # matplotlib writes one
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", body)
    for light in LIGHT_TO_DARK:
        body = body.replace(light, f"var({variable(light)})")
    return (
        f'<svg {box[0]} role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{body}'
    )
