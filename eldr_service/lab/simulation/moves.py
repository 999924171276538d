"""Interface for moving running requests between workers, to estimate what routing could reach."""

from collections.abc import Iterable
from typing import Protocol


class Moves(Protocol):
    """Is told of every request that begins or ends, and says which request to move where.

    `request` is its number in order of arrival, `recording` its place in `Workload.driven`.
    Moves are free: see `DecodePool.move`.
    """

    def started(self, request: int, recording: int, worker: int) -> None:
        """A worker begins a decode."""

    def ended(self, request: int) -> None:
        """A decode has ended."""

    def next(self) -> Iterable[tuple[int, int]]:
        """(request, worker) of each move to make now; asked after each of the above."""
