"""Where each domain's requests went: domains x workers, in colour and in numbers."""

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

# Background colours of 0% (never shown) to the largest share; dark to bright, and text on them.
_SHADES = ("#1d2b53", "#1f4e79", "#1b7f8c", "#37a169", "#a3c644", "#f2d43d")


def tally(
    domains: NDArray[np.str_], placements: list[tuple[int, int]], workers: int
) -> tuple[NDArray[np.str_], NDArray[np.int_]]:
    """Count placements.

    Parameters
    ----------
    domains : ndarray of str
        The domain of each driven recording.
    placements : list of (recording, worker)

    Returns
    -------
    names : ndarray of str, shape [D]
        In alphabetical order, which puts similar benchmarks next to each other.
    counts : ndarray of int, shape [D, workers]
    """
    names, domain_of = np.unique(domains, return_inverse=True)
    counts = np.zeros((len(names), workers), dtype=int)
    np.add.at(counts, tuple(np.array([(domain_of[r], w) for r, w in placements]).T), 1)
    return names, counts


def worker_order(counts: NDArray[np.int_]) -> NDArray[np.intp]:
    """Workers ordered by the domain most overrepresented on each, so that blocks line up."""
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / max(1, counts.sum())
    surplus = counts - expected
    return np.lexsort((-surplus.max(axis=0), surplus.argmax(axis=0)))


def heat_map(names: NDArray[np.str_], counts: NDArray[np.int_]) -> Table:
    """Rows are domains, columns workers; a cell is the percentage of the row's requests."""
    order = worker_order(counts)
    table = Table(box=None, padding=0, collapse_padding=True)
    table.add_column("domain", no_wrap=True, max_width=24)
    table.add_column(" requests ", justify="right", style="dim")
    for worker in order:
        table.add_column(f"{worker:>3} ", justify="right", no_wrap=True)
    kinds = [(str(name), row) for name, row in zip(names, counts[:, order], strict=True)]
    brightest = (counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)).max()
    for name, row in [*kinds, ("all", counts.sum(axis=0)[order])]:
        share = row / max(1, row.sum())
        cells = [_cell(value, brightest) for value in share]
        table.add_row(name, f"{row.sum():,} ", *cells, end_section=name == names[-1])
    return table


def _cell(share: float, brightest: float) -> Text:
    if share == 0:
        return Text("  · ", style="dim")
    shade = min(int(share / brightest * len(_SHADES)), len(_SHADES) - 1)
    ink = "black" if shade >= len(_SHADES) // 2 else "white"
    return Text(f"{share * 100:>3.0f} ", style=f"{ink} on {_SHADES[shade]}")
