"""Shortest augmenting paths between groups: the compiled part of balanced assignment.

Group a's price p[a] is what a place in it costs beyond the item's own cost. An item moved from a to
b adds ``extra = cost[i, b] - cost[i, a]`` to the total, and ``extra + p[b] - p[a]``, its reduced
cost, is never negative while every item is where it is cheapest, price included. The residual graph
thus needs one node a group, and between two of them only the least extra.

For each ordered pair a short list holds the items of a that move to b at the least extra, the best
one last; those not listed have an extra of at least the pair's bound. An item that has left a is
dropped once it is last, and a's lists are filled again from all of its items only when a shortest
path leads over an empty one.

Termination does not depend on rounding or ties: a path visits a group once, places one more item or
spare place, and no place is ever taken back; a path that met an empty list is searched again, but
at most once for each group between two paths. For exactness, extras come from the costs themselves,
and only prices add up: each update may leave reduced costs negative by a few units in the last
place of the largest price, which count as zero. Integer costs have no such error.
"""

from typing import NamedTuple

import numpy as np
from numba import float32, float64, int32, int64, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, part, readonly

_ROUNDING = 2.0**-51  # a few times what adding a price to a cost may be off by

Costs = NDArray[np.float32] | NDArray[np.float64]


class _Moves(NamedTuple):
    extra: NDArray[np.float64]  # [K, K, length], descending
    item: NDArray[np.int32]  # [K, K, length]
    held: NDArray[np.int64]  # [K, K], entries of each list
    bound: NDArray[np.float64]  # [K, K], at least this for items of a that are not listed
    least: NDArray[np.float64]  # [K, K], extra of the best move; the bound when none is listed


_LABELS = types.Array(int32, 1, "C")
_COUNTS = types.Array(int64, 1, "C")
_PRICES = types.Array(float64, 1, "C")


@kernel(
    [
        types.Tuple((_LABELS, _COUNTS, _COUNTS))(
            readonly(dtype, 2), readonly(int64, 1), readonly(float64, 1)
        )
        for dtype in (float32, float64)
    ],
    nogil=True,
)
def assign_cheapest(
    costs: Costs, places: NDArray[np.int64], prices: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Put every item, and every spare place, where it is cheapest at these prices.

    Spare places are items that cost nothing anywhere: with them all groups end exactly full. Of
    groups as cheap up to rounding, one with room is taken, so that ties need no augmentation.

    Parameters
    ----------
    costs : ndarray of float32 or float64, shape [n, K]
    places : ndarray of int64, shape [K]
        At least n in all.
    prices : ndarray of float64, shape [K]
        At least 0.

    Returns
    -------
    labels : ndarray of int32, shape [n]
    spare : ndarray of int64, shape [K]
        Spare places in each group; ``places.sum() - n`` in all.
    excess : ndarray of int64, shape [K]
        Items and spare places beyond capacity; negative where room is left. Sums to 0.
    """
    n, groups = costs.shape
    labels = np.empty(n, np.int32)
    room = places.copy()
    for i in range(n):
        label = 0
        least = np.inf
        for k in range(groups):
            price = costs[i, k] + prices[k]
            if price < least:
                least = price
                label = k
        if room[label] <= 0:
            tied = least + _ROUNDING * (abs(costs[i, label]) + prices[label])
            for k in range(groups):
                if room[k] > 0 and costs[i, k] + prices[k] <= tied:
                    label = k
                    break
        room[label] -= 1
        labels[i] = label

    spare = np.zeros(groups, np.int64)
    left = places.sum() - n
    cheapest = prices.argmin()
    for k in range(groups):
        if prices[k] == prices[cheapest] and room[k] > 0:
            spare[k] = min(left, room[k])
            left -= spare[k]
    spare[cheapest] += left
    return labels, spare, spare - room


@part()
def _moves_spare(moves: _Moves, spare: NDArray[np.int64], a: int, b: int) -> bool:
    """Whether a spare place is the best to move from a to b; its extra is 0."""
    best: bool = spare[a] > 0 and moves.least[a, b] == 0.0
    return best


@part()
def _list_item(moves: _Moves, costs: Costs, i: int, a: int, targets: NDArray[np.int64]) -> None:
    """Enter item i of group a into its lists of moves to `targets` if it is good enough."""
    here = float64(costs[i, a])
    for b in targets:
        extra = costs[i, b] - here
        if extra < moves.bound[a, b]:
            _insert(moves, a, b, i, extra)


@part()
def _insert(moves: _Moves, a: int, b: int, i: int, extra: float) -> None:
    extras, items, held = moves.extra[a, b], moves.item[a, b], moves.held[a, b]
    if held < len(extras):
        place = held
        while place > 0 and extras[place - 1] < extra:
            extras[place], items[place] = extras[place - 1], items[place - 1]
            place -= 1
        moves.held[a, b] = held + 1
    else:  # the worst of them and this one goes
        moves.bound[a, b] = max(extra, extras[0])
        if extra >= extras[0]:
            return
        place = 0
        while place + 1 < held and extras[place + 1] > extra:
            extras[place], items[place] = extras[place + 1], items[place + 1]
            place += 1
    extras[place], items[place] = extra, i


@part()
def _find_least(moves: _Moves, labels: NDArray[np.int32], spare: NDArray[np.int64], a: int) -> None:
    for b in range(len(spare)):
        held = moves.held[a, b]
        while held > 0 and labels[moves.item[a, b, held - 1]] != a:
            held -= 1
        moves.held[a, b] = held
        least = moves.extra[a, b, held - 1] if held > 0 else moves.bound[a, b]
        moves.least[a, b] = min(least, 0.0) if spare[a] > 0 else least


@part()
def _fill_empty(
    moves: _Moves,
    costs: Costs,
    labels: NDArray[np.int32],
    spare: NDArray[np.int64],
    path: NDArray[np.int64],
) -> bool:
    """Fill all empty lists of groups whose list on the path is empty; whether there were any."""
    found = False
    for step in range(len(path) - 1):
        b, a = path[step], path[step + 1]
        if moves.held[a, b] > 0 or _moves_spare(moves, spare, a, b):
            continue
        found = True
        empty = np.flatnonzero(moves.held[a] == 0)
        moves.bound[a][empty] = np.inf
        for i in range(len(labels)):
            if labels[i] == a:
                _list_item(moves, costs, i, a, empty)
        _find_least(moves, labels, spare, a)
    return found


@part()
def _shortest_path(
    least: NDArray[np.float64],
    prices: NDArray[np.float64],
    excess: NDArray[np.int64],
    source: int,
    distance: NDArray[np.float64],
    settled: NDArray[np.bool_],
    path: NDArray[np.int64],
) -> int:
    """Dijkstra's algorithm over reduced costs, up to the nearest group with room.

    Writes the path, its end first, and returns its number of steps. There always is one: items and
    spare places may move from the source to any other group.
    """
    groups = len(prices)
    parent = np.full(groups, source)
    distance[:] = np.inf
    distance[source] = 0.0
    settled[:] = False
    while True:
        a = -1
        for k in range(groups):
            if not settled[k] and (a < 0 or distance[k] < distance[a]):
                a = k
        settled[a] = True
        if excess[a] < 0:
            break
        for b in range(groups):
            if not settled[b]:
                through = distance[a] + max(0.0, least[a, b] + (prices[b] - prices[a]))
                if through < distance[b]:
                    distance[b] = through
                    parent[b] = a
    path[0] = a
    steps = 0
    while path[steps] != source:
        path[steps + 1] = parent[path[steps]]
        steps += 1
    return steps


@kernel(
    [
        types.void(readonly(dtype, 2), _LABELS, _COUNTS, _COUNTS, _PRICES, int64)
        for dtype in (float32, float64)
    ],
    nogil=True,
)
def balance(
    costs: Costs,
    labels: NDArray[np.int32],
    spare: NDArray[np.int64],
    excess: NDArray[np.int64],
    prices: NDArray[np.float64],
    length: int,
) -> None:
    """Bring every excess to 0 along shortest augmenting paths; all but `costs` is updated.

    Parameters
    ----------
    costs, labels, spare, excess, prices
        As `assign_cheapest` takes and returns them.
    length : int
        Length of the lists of moves; affects only speed.
    """
    n, groups = costs.shape
    everywhere = np.arange(groups)
    moves = _Moves(
        np.empty((groups, groups, length)),
        np.empty((groups, groups, length), np.int32),
        np.zeros((groups, groups), np.int64),
        np.full((groups, groups), np.inf),
        np.empty((groups, groups)),
    )
    for i in range(n):
        _list_item(moves, costs, i, labels[i], everywhere)
    for a in range(groups):
        _find_least(moves, labels, spare, a)

    distance = np.empty(groups)
    settled = np.empty(groups, np.bool_)
    path = np.empty(groups, np.int64)
    for source in range(groups):
        while excess[source] > 0:
            steps = _shortest_path(moves.least, prices, excess, source, distance, settled, path)
            if _fill_empty(moves, costs, labels, spare, path[: steps + 1]):
                continue
            target = path[0]
            for k in range(groups):
                if settled[k]:
                    prices[k] += distance[target] - distance[k]
            amount = 1
            if steps == 1 and _moves_spare(moves, spare, source, target):
                amount = min(excess[source], -excess[target], spare[source])
            # From the end of the path: each list is read before its group receives anything.
            for step in range(steps):
                b, a = path[step], path[step + 1]
                if _moves_spare(moves, spare, a, b):
                    spare[a] -= amount
                    spare[b] += amount
                else:
                    i = moves.item[a, b, moves.held[a, b] - 1]
                    labels[i] = b
                    _list_item(moves, costs, i, b, everywhere)
            for k in path[: steps + 1]:
                _find_least(moves, labels, spare, k)
            excess[source] -= amount
            excess[target] += amount
