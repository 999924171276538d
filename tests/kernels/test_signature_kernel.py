import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature import SignatureTransform
from eldr_service.kernels import transform_signature, warm_up

GEOMETRY = ModelGeometry(3, 5, 2)
COUNTS = arrays(np.uint32, (3, 5), elements=st.integers(0, 2**32 - 1) | st.integers(0, 3))
IDF = np.random.default_rng(0).random((3, 5)).astype(np.float32)
LAYERS = st.sets(st.integers(0, 2), min_size=1).map(sorted)


@given(COUNTS, LAYERS, st.sampled_from(["counts", "counts-idf", "sqrt"]))
def test_equals_the_transform_of_core(counts, layers, name):
    transform = SignatureTransform(
        GEOMETRY, name, np.array(layers), IDF if name == "counts-idf" else None
    )
    signature, _ = transform_signature(counts, transform.layers, transform.weights, name == "sqrt")
    np.testing.assert_allclose(signature, transform.apply(counts), rtol=2e-7, atol=0)
    assert signature.dtype == np.float32


def test_zero_norm_gives_zeros():
    layers, ones = np.arange(3), np.ones((3, 5), dtype=np.float32)
    for counts, weights in ((np.zeros, ones), (np.ones, 0 * ones)):
        signature, norm = transform_signature(counts((3, 5), np.uint32), layers, weights, True)
        assert norm == 0
        assert not signature.any()


def test_misfits_are_refused_before_memory_is_touched():
    counts, ones = np.ones((3, 5), np.uint32), np.ones((1, 5), dtype=np.float32)
    with pytest.raises(ValueError, match="rows of counts"):
        transform_signature(counts, np.array([3]), ones, False)
    with pytest.raises(ValueError, match="weights"):
        transform_signature(counts, np.array([0, 1]), ones, False)


def test_warm_up_leaves_nothing_to_compile():
    compiled = list(transform_signature.signatures)
    warm_up()
    assert transform_signature.signatures == compiled
