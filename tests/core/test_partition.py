import numpy as np
import pytest

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform, inverse_document_frequency

GEOMETRY = ModelGeometry(3, 4, 2)
PLAIN = SignatureTransform(GEOMETRY)
CENTROIDS = np.eye(12, dtype=np.float32)[:5]
IDF = np.ones((3, 4), dtype=np.float32)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("transform", {"name": "cosine"}),
        ("layers", {"layers": np.array([], dtype=np.int64)}),
        ("layers", {"layers": np.array([1, 1])}),
        ("layers", {"layers": np.array([2, 0])}),
        ("layers", {"layers": np.array([-1, 0])}),
        ("layers", {"layers": np.array([0, 3])}),
        ("layers", {"layers": np.array([[0, 1]])}),
        ("idf", {"name": "counts-idf"}),
        ("idf", {"name": "sqrt", "idf": IDF}),
        ("idf", {"name": "counts-idf", "idf": IDF[:2]}),
    ],
)
def test_wrong_transforms_are_named(field, fields):
    with pytest.raises(InvalidArgumentError) as error:
        SignatureTransform(GEOMETRY, **fields)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("centroids", {"centroids": CENTROIDS[:0]}),
        ("centroids", {"centroids": CENTROIDS[0]}),
        ("centroids", {"centroids": CENTROIDS[:, :11]}),
        ("centroids", {"centroids": CENTROIDS * 1.01}),
        ("centroids", {"centroids": np.full((5, 12), np.nan, np.float32)}),
        ("bindings[w]", {"bindings": {"w": 5}}),
        ("bindings[w]", {"bindings": {"w": -1}}),
    ],
)
def test_wrong_partitions_are_named(field, fields):
    with pytest.raises(InvalidArgumentError) as error:
        Partition(**{"model": "m", "transform": PLAIN, "centroids": CENTROIDS} | fields)
    assert error.value.field == field


def test_signatures_have_unit_length_over_all_layers():
    counts = np.random.default_rng(0).integers(0, 9, (6, 3, 4)).astype(np.uint32)
    counts[0] = 0
    masked = SignatureTransform(GEOMETRY, "counts-idf", np.array([0, 2]), IDF * 2)
    for transform in (PLAIN, masked, SignatureTransform(GEOMETRY, "sqrt")):
        signatures = transform.apply(counts)
        assert signatures.shape == (6, transform.size)
        np.testing.assert_allclose(np.linalg.norm(signatures, axis=1), [0, 1, 1, 1, 1, 1])
    expected = counts[3, [0, 2]].ravel() / np.linalg.norm(counts[3, [0, 2]])
    np.testing.assert_allclose(masked.apply(counts[3]), expected, rtol=1e-6)


def test_inverse_document_frequency_is_the_papers():
    counts = np.array([[[5, 0, 1]], [[1, 0, 0]]])
    np.testing.assert_allclose(
        inverse_document_frequency(counts), np.log([[3 / 3, 3 / 1, 3 / 2]]), rtol=1e-6
    )
