"""Memory per remembered end, and how long it blocks the daemon.

Ends of a million requests (ids of 36 characters, as UUIDs have) are remembered as the daemon does
for ten minutes. Memory is the growth of the process; a pause is the longest single step, in
processor time: to remember one, to forget some, and a full garbage collection. The baseline is
one object per request.

Prints a table and writes build/bench/remembered_ends.json.
"""

import argparse
import gc
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.speed.held_signatures import resident_bytes
from benchmarks.written import written
from eldr_service.core.ends import REMEMBER_SECONDS, Ended, Ends


@dataclass
class _Past:
    attempts: dict[int, Ended]
    last: tuple[int, str]
    forget_at: float


def ids(requests: int) -> list[str]:
    """Request ids in the form of UUIDs."""
    return [str(uuid.UUID(int=(n * 0x9E3779B97F4A7C15) % 2**128)) for n in range(requests)]


def measured(add: Callable[[str, float], None], requests: int) -> dict[str, float]:
    """Bytes per end, and the longest steps in milliseconds."""
    gc.collect()
    before, longest = resident_bytes(), 0.0
    for number, request in enumerate(ids(requests)):
        begun = time.thread_time()
        add(request, number / requests)
        longest = max(longest, time.thread_time() - begun)
    grown = resident_bytes() - before
    begun = time.thread_time()
    gc.collect()
    collected = time.thread_time() - begun
    return {
        "bytes": grown / requests,
        "longest_add_ms": longest * 1e3,
        "collection_ms": collected * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    requests = parser.parse_args().requests
    gc.disable()  # collections are timed separately
    gc.collect()
    gc.freeze()
    ends = Ends(most=2 * requests)
    ours = measured(lambda r, now: ends.add(r, 0, Ended.RELEASED, now, "decode-17"), requests)
    longest = 0.0
    while len(ends) > requests // 2:
        begun = time.thread_time()
        ends.forget(REMEMBER_SECONDS + 0.5)  # the first half is due
        longest = max(longest, time.thread_time() - begun)
    ours["longest_forget_ms"] = longest * 1e3
    objects: OrderedDict[str, _Past] = OrderedDict()

    def add(request: str, now: float) -> None:
        objects[request] = _Past({0: Ended.RELEASED}, (0, "decode-17"), now + 600)

    plain = measured(add, requests)
    print(f"{requests:,} ends{'':24}ours   an object each")
    for name, value in ours.items():
        print(f"{name:28}{value:10.2f}   {plain.get(name, float('nan')):10.2f}")
    written("remembered_ends", {"requests": requests, "ours": ours, "objects": plain})


if __name__ == "__main__":
    main()
