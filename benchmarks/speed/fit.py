"""What a balanced k-means fit costs, next to the algorithm as it is usually written.

The baseline recomputes everything in each iteration: float32 similarities by BLAS, SciPy's
`linear_sum_assignment` on each centroid's column repeated for each of its places, and the
normalised means. Both make signatures from the same counts (sqrt), start from the same centroids
and end when no label changes. Runs alternate; the table shows medians, the JSON also the baseline's
time per part.

A thousand requests' counts, 48 layers x 128 experts, come from `lab.simulation.synthetic`: its
domains in turn, or some far more frequent than others, so that balance must split them. The large
fit, in its own process, is of 100,000 sparse ones: each has a random quarter of what two of those
requests use. Its peak memory is the process's, including the counts and the interpreter.

Prints a table and writes build/bench/fit.json.
"""

import argparse
import multiprocessing
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numba import config
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from benchmarks.written import written
from eldr_service.core.geometry import ModelGeometry
from eldr_service.fitting import BalancedKMeans
from eldr_service.lab.simulation.synthetic import SyntheticRouting

GEOMETRY = ModelGeometry(48, 128, 8)
LARGE = 100_000
CHUNK = 2_000
DOMAINS = 24


def drawn_counts(requests: int, *, skewed: bool = False) -> np.ndarray:
    """Prefill counts [requests, L, E] of 24 domains, equally frequent or the r-th 1 / r as much."""
    rank = np.arange(1, DOMAINS + 1)
    sizes = np.ceil(requests * (1 / rank / (1 / rank).sum() if skewed else 1 / DOMAINS + 0 * rank))
    recording = SyntheticRouting(
        GEOMETRY.num_layers,
        GEOMETRY.num_experts,
        GEOMETRY.top_k,
        domains=DOMAINS,
        requests=DOMAINS * int(sizes.max()),
        decode_tokens=1,
    ).generate()
    turn = np.arange(recording.num_requests) // DOMAINS
    domain = np.arange(recording.num_requests) % DOMAINS
    kept = np.flatnonzero(turn < sizes[domain])[:requests]
    return np.stack([recording.counts_of(recording.prefill(r)) for r in kept])


def hellinger(counts: np.ndarray) -> np.ndarray:
    rows = np.sqrt(counts.reshape(len(counts), -1), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def textbook_fit(
    counts: np.ndarray, centers: np.ndarray, max_iter: int
) -> tuple[float, int, np.ndarray]:
    """Inertia, iterations, and seconds spent on similarities, assignment and means."""
    signatures = hellinger(counts)
    n, groups = len(signatures), len(centers)
    places = -(-n // groups)
    spent = np.zeros(3)

    def assigned(centers: np.ndarray) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        distance = 1 - signatures @ centers.T
        compared = time.perf_counter()
        columns = np.repeat(distance, places, axis=1)
        labels = linear_sum_assignment(columns)[1] // places
        spent[:2] += compared - start, time.perf_counter() - compared
        return labels, float(distance[np.arange(n), labels].sum(dtype=np.float64))

    labels, inertia = assigned(centers)
    iteration = 0
    while iteration < max_iter:
        iteration += 1
        start = time.perf_counter()
        means = np.stack([signatures[labels == k].mean(axis=0) for k in range(groups)])
        centers = means / np.linalg.norm(means, axis=1, keepdims=True)
        spent[2] += time.perf_counter() - start
        previous = labels
        labels, inertia = assigned(centers)
        if np.array_equal(labels, previous):
            break
    return inertia, iteration, spent


def against_textbook(counts: np.ndarray, clusters: int, seed: int, repeats: int) -> dict[str, Any]:
    kmeans = BalancedKMeans(clusters, transform="sqrt")
    drawn = np.random.default_rng(seed).choice(len(counts), clusters, replace=False)
    centers = hellinger(counts[drawn])
    theirs, ours = [], []
    spent = np.zeros(3)
    for _ in range(repeats):
        start = time.perf_counter()
        inertia, iterations, parts = textbook_fit(counts, centers, kmeans.max_iter)
        theirs.append(time.perf_counter() - start)
        spent += parts / repeats
        time.sleep(0.2)  # OpenBLAS's threads spin for a while after their work
        start = time.perf_counter()
        kmeans.fit(counts, initial_centers=centers)
        ours.append(time.perf_counter() - start)
    baseline, seconds = float(np.median(theirs)), float(np.median(ours))
    return {
        "shape": [*counts.shape],
        "clusters": clusters,
        "baseline_seconds": baseline,
        "baseline_parts": dict(zip(("similarities", "assignment", "means"), spent, strict=True)),
        "baseline_iterations": iterations,
        "seconds": seconds,
        "iterations": kmeans.n_iter_,
        "ratio": baseline / seconds,
        "inertia": kmeans.inertia_,
        "inertia_relative": kmeans.inertia_ / inertia - 1,
    }


def sparse_counts(n: int, parents: np.ndarray) -> sparse.csr_array:
    """Counts [n, L * E]: each row a random quarter of what two of `parents` use together."""
    rng = np.random.default_rng(1)
    rows = sparse.csr_array(parents.reshape(len(parents), -1))
    parts = []
    for start in range(0, n, CHUNK):
        pairs = rng.integers(len(parents), size=(2, min(CHUNK, n - start)))
        part = rows[pairs[0]] + rows[pairs[1]]
        part.data *= rng.random(part.nnz, np.float32) < 0.25
        part.eliminate_zeros()
        part.data = part.data.astype(np.uint32)
        parts.append(part)
    return sparse.vstack(parts, format="csr")


def draw_large(path: Path, n: int) -> None:
    sparse.save_npz(path, sparse_counts(n, drawn_counts(1_000)), compressed=False)


def large(path: Path, clusters: int) -> dict[str, Any]:
    counts = sparse.load_npz(path)
    start = time.perf_counter()
    kmeans = BalancedKMeans(clusters, transform="sqrt").fit(counts, geometry=GEOMETRY)
    seconds = time.perf_counter() - start
    n = counts.shape[0]
    return {
        "shape": [n, GEOMETRY.num_layers, GEOMETRY.num_experts],
        "clusters": clusters,
        "density": counts.nnz / (n * GEOMETRY.size),
        "counts_bytes": counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes,
        "dense_signatures_bytes": n * GEOMETRY.size * 4,
        "seconds": seconds,
        "iterations": kmeans.n_iter_,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure(repeats: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, Python {platform.python_version()},"
        f" {config.NUMBA_NUM_THREADS} threads",
    }
    for name, skewed in (("in turn", False), ("skewed", True)):
        counts = drawn_counts(1_000, skewed=skewed)
        for seed in range(2):
            result[f"{name}, start {seed + 1}"] = against_textbook(counts, 16, seed, repeats)
    result["larger"] = against_textbook(drawn_counts(2_000), 32, 0, 1)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(1, maxtasksperchild=1) as pool:
        path = Path(folder) / "counts.npz"
        pool.apply(draw_large, (path, LARGE))  # another process: its peak is not the fit's
        result["large, sparse"] = pool.apply(large, (path, 64))
    return result


def table(result: dict[str, Any]) -> Table:
    shown = Table(title="Balanced k-means", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("signatures", "K", "fit", "iterations", "baseline", "ELDR", "faster", "inertia"):
        shown.add_column(name, justify="left" if name == "fit" else "right", no_wrap=True)
    for name, row in result.items():
        if not isinstance(row, dict):
            continue
        beside = (
            (f"{row['baseline_seconds']:.3f} s", f"{row['seconds']:.4f} s", f"{row['ratio']:.0f}x")
            if "ratio" in row
            else (f"{row['peak_bytes'] / 1e9:.2f} GB peak", f"{row['seconds']:.1f} s", "")
        )
        relative = f"{row['inertia_relative']:+.0e}" if "ratio" in row else ""
        shape = " x ".join(f"{size:,}" for size in row["shape"])
        shown.add_row(shape, str(row["clusters"]), name, str(row["iterations"]), *beside, relative)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    result = measure(parser.parse_args().repeats)
    Console().print(table(result))
    written("fit", result)


if __name__ == "__main__":
    main()
