import numpy as np
import pytest
from routed import separable
from scipy import sparse

from eldr_service.core.geometry import ModelGeometry
from eldr_service.fitting import BalancedKMeans

RECORDING = separable(4, 10, tokens=12)
COUNTS = RECORDING.prefill_counts()
GEOMETRY = RECORDING.geometry
SPARSE = sparse.csr_array(COUNTS.reshape(len(COUNTS), -1))


@pytest.mark.parametrize("transform", ["auto", "counts", "counts-idf", "sqrt"])
@pytest.mark.parametrize("layer_mask", [None, [0, 2]])
@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_counts_fit_as_dense_ones_do(transform, layer_mask, form):
    one, other = (
        BalancedKMeans(4, transform=transform, layer_mask=layer_mask, n_init=3).fit(
            counts, geometry=GEOMETRY, decode_counts=decodes
        )
        for counts, decodes in ((COUNTS, 2 * COUNTS), (SPARSE.asformat(form), 2 * SPARSE))
    )
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_allclose(one.cluster_centers_, other.cluster_centers_, rtol=0, atol=1e-6)
    assert one.inertia_ == pytest.approx(other.inertia_, abs=1e-5)
    assert one.transform_scores_ == other.transform_scores_
    np.testing.assert_array_equal(one.predict(SPARSE), other.predict(COUNTS))


def test_empty_rows_and_counts_that_are_stored_zeros_have_no_signature():
    matrix = sparse.csr_array(
        ([1, 0, 2, 3], [5, 6, 5, 7], [0, 0, 1, 2, 4, 4]), shape=(5, GEOMETRY.size)
    )
    kmeans = BalancedKMeans(2, transform="counts").fit(matrix, geometry=GEOMETRY)
    dense = matrix.toarray().reshape(5, 3, 16)
    np.testing.assert_array_equal(
        kmeans.labels_, BalancedKMeans(2, transform="counts").fit(dense).labels_
    )
    assert (kmeans.predict(matrix) == -1).tolist() == [True, False, True, False, True]


def test_counts_are_not_changed():
    before = SPARSE.copy()
    BalancedKMeans(4, layer_mask=[1]).fit(SPARSE, geometry=GEOMETRY)
    assert (before != SPARSE).nnz == 0


@pytest.mark.parametrize(
    ("matrix", "geometry", "message"),
    [
        (SPARSE, None, "give the geometry"),
        (SPARSE, ModelGeometry(3, 15, 2), r"shape \[n, 45\]"),
        (SPARSE.astype(float), GEOMETRY, "integers"),
        (-SPARSE.astype(np.int64), GEOMETRY, "negative"),
        (SPARSE.astype(np.int64) * 2**32, GEOMETRY, r"below 2\^32"),
    ],
)
def test_wrong_sparse_counts(matrix, geometry, message):
    with pytest.raises(ValueError, match=message):
        BalancedKMeans(2).fit(matrix, geometry=geometry)


@pytest.mark.parametrize("columns", [[3, 3], [4, 3], [3, 48], [-1, 3]])
def test_columns_must_ascend_within_the_geometry(columns):
    class Matrix:  # what SciPy would not make, but another library may
        dtype = np.dtype(np.int32)
        shape = (2, GEOMETRY.size)
        data = np.ones(2, np.int32)
        indices = np.array(columns, np.int32)
        indptr = np.array([0, 0, 2], np.int32)

        def tocsr(self):
            return self

    with pytest.raises(ValueError, match="row 1 does not"):
        BalancedKMeans(2).fit(Matrix(), geometry=GEOMETRY)
