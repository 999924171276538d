"""Makes foreign text safe for terminals and logs."""

import re
import unicodedata
from collections.abc import Callable

# Controls (C0, C1, DEL), format characters (bidi, zero width, tags), line separators, surrogates.
_UNFIT = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
_NOT_ASCII_PRINTABLE = re.compile(r"[^ -~]")


def unfit(text: str) -> str:
    """Return the first character that could act on a terminal or hide in a line; "" if none."""
    return next((c for c in text if unicodedata.category(c) in _UNFIT), "")


def escaped(
    text: str, keep: str = "", write: Callable[[str], str] = lambda c: ascii(c)[1:-1]
) -> str:
    r"""Write out what is unfit, by default as Python does (\x1b, \u202e).

    Parameters
    ----------
    text : str
    keep : str
        Characters to leave unchanged, such as a newline.
    write : callable, optional
        Returns the replacement of a character.
    """
    if text.isprintable():
        return text
    return _NOT_ASCII_PRINTABLE.sub(
        lambda found: (
            write(found[0])
            if unicodedata.category(found[0]) in _UNFIT and found[0] not in keep
            else found[0]
        ),
        text,
    )
