"""Which workers are bound to which slots of a partition, as workers come and go."""

from collections.abc import Iterable, Mapping, Sequence


class Bindings:
    """Keeps every slot in use as long as there are enough workers.

    A worker that joins takes a vacant slot, or else shares the slot with the most traffic per
    worker (on a tie the one with fewest workers, so that no slot is crowded before there is
    traffic). When a worker leaves a slot vacant, the youngest worker of a shared slot moves there,
    so that a rolling restart under new names, in either order, ends with every slot in use.

    Parameters
    ----------
    num_slots : int

    Attributes
    ----------
    version : int
        Increases with every change of a binding.
    """

    def __init__(self, num_slots: int) -> None:
        self._workers: list[list[int]] = [[] for _ in range(num_slots)]
        self.slot_of: dict[int, int] = {}
        self.placements = [0] * num_slots
        self.version = 0

    @classmethod
    def of(cls, num_slots: int, rows: Iterable[int], wishes: Mapping[int, int]) -> "Bindings":
        """Bind `rows`: first those with a wish (row to slot), then the others."""
        bindings = cls(num_slots)
        rows = list(rows)
        for row in (r for r in rows if r in wishes):
            bindings._bind(row, wishes[row])
        for row in (r for r in rows if r not in wishes):
            bindings.join(row)
        bindings._fill_vacant()
        return bindings

    @classmethod
    def restored(cls, slots: Sequence[tuple[Iterable[int], int]]) -> "Bindings":
        """Restore bindings: each slot's rows, eldest first, and its placements."""
        bindings = cls(len(slots))
        for slot, (rows, placements) in enumerate(slots):
            bindings.placements[slot] = placements
            for row in rows:
                bindings._bind(row, slot)
        return bindings

    def workers(self, slot: int) -> tuple[int, ...]:
        """Rows bound to a slot, eldest first."""
        return tuple(self._workers[slot])

    def join(self, row: int) -> int:
        """Bind a worker that is not yet bound."""
        vacant = [s for s, workers in enumerate(self._workers) if not workers]
        slot = vacant[0] if vacant else max(range(len(self._workers)), key=self._need)
        self._bind(row, slot)
        return slot

    def leave(self, row: int) -> None:
        """Unbind a worker that drains or is gone, if it is bound."""
        slot = self.slot_of.pop(row, None)
        if slot is not None:
            self._workers[slot].remove(row)
            self.version += 1
            self._fill_vacant()

    def _bind(self, row: int, slot: int) -> None:
        self.slot_of[row] = slot
        self.version += 1
        self._workers[slot].append(row)

    def _need(self, slot: int) -> tuple[float, int]:
        workers = len(self._workers[slot])
        return self.placements[slot] / workers, -workers

    def _fill_vacant(self) -> None:
        for vacant, workers in enumerate(self._workers):
            shared = [s for s, sharing in enumerate(self._workers) if len(sharing) > 1]
            if workers or not shared:
                continue
            # The slot with the least traffic per worker can best spare one.
            row = self._workers[min(shared, key=self._need)].pop()
            self._bind(row, vacant)
