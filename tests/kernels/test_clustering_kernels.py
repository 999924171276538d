import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from eldr_service.kernels import threads
from eldr_service.kernels.core.signature import transform_signature
from eldr_service.kernels.fitting.cluster_sums import move_dense, move_sparse
from eldr_service.kernels.fitting.signature_rows import dense_signatures
from eldr_service.kernels.fitting.similarities import dense_similarities, sparse_similarities


def csr(rows):
    matrix = sparse.csr_array(rows)
    return matrix.data, matrix.indices, matrix.indptr.astype(np.int64)


def drawn(n, size, seed):
    rng = np.random.default_rng(seed)
    return (rng.random((n, size)) * (rng.random((n, size)) < 0.4)).astype(np.float32)


@given(st.integers(1, 120), st.integers(1, 2_100), st.integers(1, 21), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_similarities_are_dot_products(n, size, m, seed):
    rows, centers = drawn(n, size, seed), drawn(m, size, seed + 1)
    exact = rows.astype(np.float64) @ centers.T.astype(np.float64)
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(dense_similarities(rows, centers), exact, **tolerance)
    np.testing.assert_allclose(sparse_similarities(*csr(rows), centers), exact, **tolerance)


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 9), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_sums_follow_the_labels(n, size, k, seed):
    rng = np.random.default_rng(seed)
    rows = drawn(n, size, seed)
    none = np.full(n, -1, np.int32)
    before, after = rng.integers(0, k, (2, n)).astype(np.int32)
    expected = np.stack([rows[after == c].sum(axis=0, dtype=np.float64) for c in range(k)])
    for move, of in ((move_dense, (rows,)), (move_sparse, csr(rows))):
        sums = np.zeros((k, size))
        move(sums, *of, none, before)
        move(sums, *of, before, after)
        np.testing.assert_allclose(sums, expected, atol=1e-12)


@pytest.mark.parametrize("square_root", [False, True])
def test_signatures_are_the_routers(square_root):
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (30, 4, 8))
    counts[3] = 0
    layers, weights = np.array([0, 2, 3]), rng.random((3, 8), np.float32)
    of_all = dense_signatures(counts, layers, weights, square_root)
    for row, one in zip(of_all, counts.astype(np.uint32), strict=True):
        exact, _ = transform_signature(one, layers, weights, square_root)
        np.testing.assert_allclose(row, exact, rtol=4e-7)


@pytest.mark.parametrize(("n", "align", "number"), [(0, 1, 4), (1, 8, 4), (97, 8, 3), (16, 8, 64)])
def test_ranges_cover_all_rows_once(monkeypatch, n, align, number):
    monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", number)
    seen = []
    threads.over_rows(lambda *edge: seen.append(edge), n, work=1 << 40, align=align)
    rows = [row for first, last in sorted(seen) for row in range(first, last)]
    assert rows == list(range(n))
    assert all(first % align == 0 for first, _ in seen)


def test_what_a_thread_raises_is_raised():
    def refuse(first, last):
        raise ValueError(f"no {first}")

    with pytest.raises(ValueError, match="no "):
        threads.over_rows(refuse, 100, work=1 << 40)
