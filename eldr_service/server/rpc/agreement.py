"""What an operator chooses is so for every replica when the answer leaves."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

Agreed = Callable[[str], AbstractAsyncContextManager[None]]
"""By the model: what is chosen inside is told to all, or UnavailableError says why not."""


def at_once(model: str) -> AbstractAsyncContextManager[None]:
    """Of a daemon that has no others to agree with."""
    return nullcontext()
