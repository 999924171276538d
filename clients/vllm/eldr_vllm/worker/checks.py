"""Invariants of every step, so that a wrong count is never sent."""

from collections.abc import Sequence

import numpy as np
from numba import types
from numpy.typing import NDArray

from eldr_vllm.compiling import kernel, readonly

IN_ORDER, MISSING, OUT_OF_RANGE, REPEATED = range(4)
_SAYS = {
    MISSING: "layer {} gave no experts for a computed token",
    OUT_OF_RANGE: "layer {} gave an expert that the model does not have",
    REPEATED: "layer {} gave an expert twice for one token",
}


class FailedStepError(Exception):
    """What was captured is not what the step computed.

    Attributes
    ----------
    slots_hold : bool
        Whether the rows' KV slots are still right.
    """

    def __init__(self, message: str, slots_hold: bool = False) -> None:
        super().__init__(message)
        self.slots_hold = slots_hold


def check_slots(
    slots: NDArray[np.int64],
    num_tokens: int,
    spans: NDArray[np.int64],
    order: Sequence[int] | None,
) -> None:
    """Check that the rows are where the scheduler put its tokens.

    Parameters
    ----------
    slots : ndarray of int64, shape [rows]
        According to the model runner.
    num_tokens : int
        Tokens scheduled for the step.
    spans : ndarray of int64, shape [requests, 3]
        First slot, last slot and tokens of each request, according to the scheduler; tokens 0 if it
        cannot know.
    order : sequence of int, optional
        The requests in row order, if the model runner gives it.

    Raises
    ------
    FailedStepError
        They are not there.
    """
    if len(slots) != num_tokens:
        raise FailedStepError(f"{len(slots)} rows have a KV slot, {num_tokens} were scheduled")
    known = spans[:, 2] > 0
    if order is None:
        by_slot = np.argsort(slots)
        found = np.searchsorted(slots, spans[:, 0], sorter=by_slot)
        starts = by_slot.take(found, mode="clip")
    elif not known.all():
        return  # where a request begins depends on all before it
    else:
        spans, known = spans[order], known[order]
        starts = np.cumsum(spans[:, 2]) - spans[:, 2]
    first, last, tokens = spans[known].T
    starts = starts[known]
    ends = np.minimum(starts + tokens, len(slots)) - 1
    if not (np.array_equal(slots[starts], first) and np.array_equal(slots[ends], last)):
        raise FailedStepError("the batch's rows are not where the scheduler has put its tokens")


def check_experts(experts: NDArray[np.integer], num_experts: int, missing: int) -> None:
    """Check that every layer gave `top_k` different experts for every token.

    Parameters
    ----------
    experts : ndarray of uint8 or int16, shape [rows, layers, top_k]
    num_experts : int
    missing : int
        The value for an expert that was not given.

    Raises
    ------
    FailedStepError
        A layer did not.
    """
    fault, layer = _first_fault(experts, num_experts, missing)
    if fault != IN_ORDER:
        raise FailedStepError(_SAYS[fault].format(layer), slots_hold=True)


@kernel(
    *(
        types.UniTuple(types.int64, 2)(readonly(ids, 3), types.int64, types.int64)
        for ids in (types.uint8, types.int16)
    )
)
def _first_fault(experts: NDArray[np.integer], num_experts: int, missing: int) -> tuple[int, int]:
    """The first fault and its layer."""
    rows, layers, picks = experts.shape
    last_row = np.full((layers, num_experts), -1, np.int32)  # in which an expert was given
    for row in range(rows):
        for layer in range(layers):
            for pick in range(picks):
                expert = experts[row, layer, pick]
                if expert == missing:
                    return MISSING, layer
                if expert < 0 or expert >= num_experts:
                    return OUT_OF_RANGE, layer
                if last_row[layer, expert] == row:
                    return REPEATED, layer
                last_row[layer, expert] = row
    return IN_ORDER, 0
