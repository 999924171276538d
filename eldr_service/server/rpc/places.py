"""Calls that wait for a place while every eligible worker is at capacity."""

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Hashable
from dataclasses import KW_ONLY, dataclass, field

from eldr_service.core.errors import EldrError, ResourceExhaustedError
from eldr_service.routing.call import ANYWHERE, RouteCall
from eldr_service.routing.place import Placed

# One step of priority is worth this much waiting time.
STEP_SECONDS = 1.0
MAX_BYTES = 64 << 20
# Failed tries, some 30 µs each, before the event loop may do something else.
TRIES_AT_ONCE = 32

Key = tuple[str, str]
"""A model and a caller."""


@dataclass(slots=True, order=True)
class _Waiting:
    """One call; those that sort first are placed first."""

    since: float
    number: int
    _: KW_ONLY
    call: RouteCall = field(compare=False)
    within: Hashable = field(compare=False)
    weight: int = field(compare=False)
    placed: asyncio.Future[Placed] = field(compare=False)


class Places:
    """Calls that wait until a worker has a place, their time is over, or others need the room.

    Each model and caller has a line, ordered by priority and arrival. When a place is free, the
    callers of the model take turns. When all lines together are too long or too heavy, the longest
    line loses its last call, so that no flood takes the room of others. A call that may go to few
    workers does not block one that may go to more.

    Parameters
    ----------
    place : callable (RouteCall) -> Placed
        Books; raises like Route.
    give_back : callable (model, Placed)
        Ends a booking whose call was cancelled before it got the answer.
    most : int
        Most calls that wait.
    """

    def __init__(
        self,
        place: Callable[[RouteCall], Placed],
        give_back: Callable[[str, Placed], None],
        most: int,
    ) -> None:
        self._place = place
        self._give_back = give_back
        self._most = most
        # In order of turns: a caller that had one moves to the end. No line is empty.
        self._lines: dict[str, dict[str, list[_Waiting]]] = {}
        self._freed: dict[str, set[Hashable]] = {}
        self._count = self._bytes = self._number = 0

    def of(self, model: str) -> int:
        """How many calls for a model wait."""
        return sum(map(len, self._lines.get(model, {}).values()))

    def free(self, model: str) -> None:
        """Record that there may be a place; waiting calls are served before the loop goes on."""
        if model not in self._lines:
            return
        if not self._freed:
            asyncio.get_running_loop().call_soon(self._serve_all)
        self._freed[model] = set()

    def tick(self) -> None:
        """Check whether time alone has freed a place, by stale reports that no longer count."""
        for model in self._lines:
            self.free(model)

    def serve_before(self, model: str) -> None:
        """Serve waiting calls, so that a new call does not overtake them."""
        if model in self._freed:
            self._serve(model)

    async def wait(
        self,
        call: RouteCall,
        caller: str,
        priority: int,
        most_seconds: float,
        full: ResourceExhaustedError,
    ) -> Placed:
        """Return the placement once there is one.

        Raises
        ------
        ResourceExhaustedError
            There was no place in time, or others have priority for the room; `full` says more.
        EldrError
            As for Route.
        """
        loop = asyncio.get_running_loop()
        self._number += 1
        waiting = _Waiting(
            time.monotonic() - priority * STEP_SECONDS,
            self._number,
            call=call,
            within=full.within,
            weight=_weight(call),
            placed=loop.create_future(),
        )
        key = call.model, caller
        insort(self._lines.setdefault(call.model, {}).setdefault(caller, []), waiting)
        self._count += 1
        self._bytes += waiting.weight
        self._make_room(full)
        late = f"{full}; none had a place for this call within {round(most_seconds, 2):g} s"
        error = ResourceExhaustedError(late, full.retry_after)
        timer = loop.call_later(most_seconds, self._refuse, key, waiting, error)
        try:
            return await waiting.placed
        except asyncio.CancelledError:
            if waiting.placed.cancelled():
                self._leave(key, waiting)
            elif waiting.placed.exception() is None:
                self._give_back(call.model, waiting.placed.result())
            raise
        finally:
            timer.cancel()

    def _leave(self, key: Key, waiting: _Waiting) -> None:
        model, caller = key
        line = self._lines.get(model, {}).get(caller, [])
        if waiting not in line:
            return
        line.remove(waiting)
        self._count -= 1
        self._bytes -= waiting.weight
        if not line:
            del self._lines[model][caller]
            if not self._lines[model]:
                del self._lines[model]

    def _refuse(self, key: Key, waiting: _Waiting, error: EldrError) -> None:
        self._leave(key, waiting)
        if not waiting.placed.done():
            waiting.placed.set_exception(error)

    def _make_room(self, full: ResourceExhaustedError) -> None:
        while self._count > self._most or self._bytes > MAX_BYTES:
            heavy = self._count <= self._most
            size = _bytes if heavy else len
            lines = ((m, c, line) for m, of in self._lines.items() for c, line in of.items())
            model, caller, line = max(lines, key=lambda each: size(each[2]))
            most = f"{MAX_BYTES >> 20} MiB of calls" if heavy else f"{self._most} calls"
            error = ResourceExhaustedError(f"{full}, and {most} wait, the most that may", 1.0)
            self._refuse((model, caller), line[-1], error)

    def _serve_all(self) -> None:
        freed, self._freed = self._freed, {}
        for model, tried in freed.items():
            self._serve(model, tried)

    def _serve(self, model: str, tried: set[Hashable] | None = None) -> None:
        """Place what can be placed; `tried` are limits within which no worker is free."""
        tried = self._freed.pop(model, set()) if tried is None else tried
        most = len(tried) + TRIES_AT_ONCE
        while turn := self._next(model, tried):
            caller, waiting = turn
            if len(tried) >= most:
                if model not in self._freed:  # else it begins anew
                    self.free(model)
                    self._freed[model] = tried
                return
            try:
                placed = self._place(waiting.call)
            except ResourceExhaustedError as error:
                if error.within is None:
                    self._refuse((model, caller), waiting, error)
                    continue
                waiting.within = error.within  # its prefill worker may have become known
                tried.add(error.within)
            except EldrError as error:
                self._refuse((model, caller), waiting, error)
            else:
                self._leave((model, caller), waiting)
                waiting.placed.set_result(placed)
                if line := self._lines.get(model, {}).pop(caller, None):
                    self._lines[model][caller] = line

    def _next(self, model: str, tried: set[Hashable]) -> tuple[str, _Waiting] | None:
        if ANYWHERE in tried:
            return None
        for caller, line in self._lines.get(model, {}).items():
            for waiting in line:
                if waiting.within not in tried and not waiting.placed.done():
                    return caller, waiting
        return None


def _weight(call: RouteCall) -> int:
    """Approximate bytes that a waiting call holds."""
    texts = (*call.candidate_workers, *call.exclude_workers, *call.labels, *call.labels.values())
    counts = call.counts.counts.nbytes if call.counts else 0
    return 4_096 + counts + sum(64 + len(text) for text in texts) + 40 * len(call.prefix_hashes)


def _bytes(line: list[_Waiting]) -> int:
    return sum(waiting.weight for waiting in line)
