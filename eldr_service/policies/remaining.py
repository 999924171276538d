"""How much of what each worker holds is still to be generated, estimated without a clock.

Time is counted in bookings of the whole fleet. A request's age is the number that came after it;
its expected life is the mean number that came during the lives of requests that ended, more if it
is expected to generate more than they did. In half lives, a request weighs 2 when it begins, and
less as it ages, so that in a steady stream each weighs 1 on average; at least 0.3, as lives differ.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.kernels import remaining_by_row
from eldr_service.policies.state import PolicyState, pack_texts, unpack_texts

LEAST = 0.3
_RECENT = 0.05  # weight of the newest life in the mean


class Remaining:
    """The living bookings and their ages."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, int]] = []
        self._place: dict[tuple[str, int], int] = {}
        # One entry for each: row, sequences, expected life, when it began.
        self._table = (np.zeros(64, np.int64), np.zeros(64), np.zeros(64), np.zeros(64))
        self._now = 0.0
        self._leaving: tuple[str, float] | None = (
            None  # the booking superseded last, and its beginning
        )
        self._life = 0.0  # 0: no booking has ended
        self._tokens = 0.0  # generated in a life; 0: unknown

    def add(self, booking: Booking) -> None:
        """A booking begins."""
        moved, self._leaving = self._leaving, None
        if moved and moved[0] == booking.request_id and booking.reason is Reason.PINNED:
            start = moved[1]
        else:
            self._now += 1
            start = self._now
        place = len(self._keys)
        if place == len(self._table[0]):
            rows, sequences, lives, began = self._table
            self._table = _twice(rows), _twice(sequences), _twice(lives), _twice(began)
        key = booking.key
        self._keys.append(key)
        self._place[key] = place
        life = self._expected_life(booking.expected_output_tokens)
        for array, value in zip(
            self._table, (booking.row, booking.num_sequences, life, start), strict=True
        ):
            array[place] = value

    def remove(self, booking: Booking, finished: bool, superseded: bool = False) -> None:
        """A booking ends; only one that `finished` is learned from.

        The next attempt of a `superseded` one continues it, if it was pinned: the request moves.
        """
        place = self._place.pop(booking.key)
        self._leaving = (booking.request_id, float(self._table[3][place])) if superseded else None
        if finished:
            began = self._table[3][place]
            self._life = _moved(self._life, max(self._now - began, 1.0))
            if booking.output_tokens:
                self._tokens = _moved(self._tokens, booking.output_tokens)
        last = self._keys.pop()
        if last != booking.key:  # it moves into the gap
            self._keys[place] = last
            self._place[last] = place
            for array in self._table:
                array[place] = array[len(self._keys)]

    def by_row(self, num_rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Booked sequences of each of the first `num_rows` rows, unweighted and weighted."""
        living = len(self._keys)
        return remaining_by_row(*self._table, living, self._now + 1, LEAST, num_rows)

    @property
    def knows_tokens(self) -> bool:
        """Whether a request has ended that stated how many tokens it generated."""
        return bool(self._life and self._tokens)

    def tokens_left(self, bookings: Sequence[Booking]) -> NDArray[np.float64]:
        """Tokens that each of these has yet to generate; meaningless if none are known."""
        places = [self._place[booking.key] for booking in bookings]
        _, _, lives, began = self._table
        life = np.where(np.isinf(lives[places]), self._life, lives[places])
        left = 1 - (self._now + 1 - began[places]) / life
        return self._tokens * life / self._life * np.maximum(left, LEAST / 2)

    def state(self) -> PolicyState:
        """All state, for `restore`."""
        rows, sequences, lives, began = (array[: len(self._keys)].copy() for array in self._table)
        return {
            "requests": pack_texts(request for request, _ in self._keys),
            "attempts": np.array([attempt for _, attempt in self._keys], np.int64),
            "rows": rows,
            "sequences": sequences,
            "lives": lives,
            "began": began,
            "means": self.means,
            "leaving": pack_texts([self._leaving[0]] if self._leaving else []),
            "left_since": np.array([self._leaving[1]] if self._leaving else []),
        }

    def restore(self, state: PolicyState) -> None:
        """Restore what `state` returned."""
        requests = unpack_texts(state["requests"])
        self._keys = list(zip(requests, state["attempts"].tolist(), strict=True))
        self._place = {key: place for place, key in enumerate(self._keys)}
        while len(self._table[0]) < len(self._keys):
            rows, sequences, lives, began = self._table
            self._table = _twice(rows), _twice(sequences), _twice(lives), _twice(began)
        for array, name in zip(self._table, ("rows", "sequences", "lives", "began"), strict=True):
            array[: len(self._keys)] = state[name]
        self.means = state["means"]
        if "leaving" in state:  # earlier versions lack it
            leaving = zip(unpack_texts(state["leaving"]), state["left_since"].tolist(), strict=True)
            self._leaving = next(leaving, None)

    @property
    def mean_tokens(self) -> float:
        """Mean tokens generated by requests that ended; 0 if unknown."""
        return self._tokens

    @property
    def means(self) -> NDArray[np.float64]:
        """The time in bookings, and the mean life and tokens of requests that ended."""
        return np.array([self._now, self._life, self._tokens])

    @means.setter
    def means(self, means: NDArray[np.float64]) -> None:
        self._now, self._life, self._tokens = means.tolist()

    def _expected_life(self, expected_tokens: int) -> float:
        if not self._life:
            return np.inf
        if not (expected_tokens and self._tokens):
            return self._life
        return self._life * min(max(expected_tokens / self._tokens, 0.1), 10.0)


Entries = TypeVar("Entries", bound=NDArray[Any])


def _twice(array: Entries) -> Entries:
    """The array, doubled in length with zeros."""
    return np.concatenate([array, np.zeros_like(array)])  # type: ignore[return-value]


def _moved(mean: float, value: float) -> float:
    return mean + _RECENT * (value - mean) if mean else float(value)
