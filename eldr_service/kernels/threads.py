"""Compiled loops over rows, shared out among threads that make no difference to the result.

Kernels release the GIL, so ordinary threads run them side by side; numba's own parallel loops
would take several times as long to compile, and where OpenMP is missing abort a process that
enters them from two threads at once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from numba import config

_WORTH_A_THREAD = 1 << 20  # multiplications, some 50 us: less is faster on fewer threads
_RANGES = 4  # for each thread


def over_rows(run: Callable[[int, int], object], n: int, *, work: int, align: int = 1) -> None:
    """Call ``run(first, last)`` for ranges that cover rows 0 to n - 1, on several threads.

    Rows must not depend on each other. Each thread takes the next range when it is done with one,
    so that a core that others use too holds nobody up. There are ``NUMBA_NUM_THREADS`` at most, by
    default as many as cores.

    Parameters
    ----------
    run : callable of (int, int)
        Runs a kernel that releases the GIL; what it raises is raised here.
    n : int
    work : int
        About how many multiplications all rows take together.
    align : int
        Ranges start at multiples of it: for kernels that take so many rows together, which may
        round another way than a row alone.
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
