"""Runs compiled loops over rows on several threads, with results independent of their number.

Kernels release the GIL, so ordinary threads run them in parallel. Numba's own parallel loops would
take several times as long to compile, and without OpenMP abort a process that enters them from two
threads at once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from numba import config

_WORTH_A_THREAD = 1 << 20  # multiplications, some 50 us: less work is faster on fewer threads
_RANGES = 4  # per thread


def over_rows(run: Callable[[int, int], object], n: int, *, work: int, align: int = 1) -> None:
    """Call ``run(first, last)`` for ranges that cover rows 0 to n - 1, on several threads.

    Rows must be independent. Each thread takes the next range when it finishes one, so that a core
    shared with others does not delay the rest. There are at most ``NUMBA_NUM_THREADS`` threads, by
    default one per core.

    Parameters
    ----------
    run : callable of (int, int)
        Runs a kernel that releases the GIL; its exceptions are raised here.
    n : int
    work : int
        Approximate number of multiplications for all rows.
    align : int
        Ranges start at multiples of it: for kernels that process so many rows together, which may
        round differently than single rows.
    """
    blocks = -(-n // align)
    threads = max(1, min(config.NUMBA_NUM_THREADS, work // _WORTH_A_THREAD, blocks))
    if threads == 1:
        run(0, n)
        return
    ranges = min(blocks, _RANGES * threads)
    edges = [min(blocks * r // ranges * align, n) for r in range(ranges + 1)]
    left = iter(list(pairwise(edges)))

    def work_off() -> None:
        for edge in left:
            run(*edge)

    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work_off) for _ in range(threads - 1)]
        work_off()
        for other in others:
            other.result()
