"""An operator's choice is agreed by every replica before the answer leaves."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

Agreed = Callable[[str], AbstractAsyncContextManager[None]]
"""By model: what is chosen inside is told to all, or UnavailableError says why not."""


def at_once(model: str) -> AbstractAsyncContextManager[None]:
    """For a daemon without replicas to agree with."""
    return nullcontext()
