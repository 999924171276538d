import numpy as np
import pytest
from eldr.v1.activation_pb2 import ActivationCounts
from eldr_client import Counts
from eldr_client.counts import as_message

from eldr_service.core import activation
from eldr_service.server.rpc.reading import activation_counts


def routed(layers, experts, top_k, tokens, seed=0, used=None):
    """Counts of `tokens` tokens that pick among the first `used` experts."""
    rng = np.random.default_rng(seed)
    picks = rng.random((layers, tokens, used or experts)).argsort(axis=2)[:, :, :top_k]
    return np.stack([np.bincount(row.ravel(), minlength=experts) for row in picks])


def decoded(message: ActivationCounts) -> activation.ActivationCounts:
    return activation_counts("counts", message)


@pytest.mark.parametrize(
    ("array", "top_k", "encoding"),
    [
        (routed(4, 32, 2, 100), 2, "dense_u16"),
        (routed(48, 128, 8, 5), 8, "sparse"),
        (routed(4, 32, 2, 300, used=3), 2, "sparse"),
        (routed(2, 8, 4, 50) * 5_000, 4, "dense_u32"),
        (np.zeros((3, 16), np.int64), 2, None),
    ],
)
def test_round_trip_in_the_smallest_encoding(array, top_k, encoding):
    message = Counts(array, top_k, unknown_tokens=9).to_proto()
    assert message.WhichOneof("encoding") == encoding
    back = decoded(message)
    np.testing.assert_array_equal(back.counts, array)
    assert back.whole
    assert (back.num_tokens, back.unknown_tokens) == (array[0].sum() // top_k, 9)
    ours = Counts.from_proto(message)
    np.testing.assert_array_equal(ours.array, array)
    assert (ours.top_k, ours.num_tokens, ours.unknown_tokens) == (top_k, back.num_tokens, 9)


def test_messages_that_contradict_themselves():
    message = Counts(routed(2, 8, 4, 50), 4).to_proto()
    message.dense_u16 = message.dense_u16[:-2]
    with pytest.raises(ValueError, match="expected \\(2, 8\\) counts, found 15"):
        Counts.from_proto(message)
    message = Counts(routed(48, 128, 8, 5), 8).to_proto()
    message.sparse.index[0] = 48 * 128
    with pytest.raises(ValueError, match="expected pairs below 6144"):
        Counts.from_proto(message)


def test_no_other_encoding_is_smaller():
    for used in range(2, 33):
        message = Counts(routed(6, 32, 2, 64, used=used), 2).to_proto()
        dense = 6 * 32 * 2
        if message.WhichOneof("encoding") == "sparse":
            # packed fields and their own heads; the choice counts the payload alone
            assert message.sparse.ByteSize() <= dense + 8
        else:
            assert len(message.dense_u16) == dense


def test_65536_needs_u32():
    at, above = (np.full((1, 2), n) for n in (65_535, 65_536))
    assert Counts(at, 2).to_proto().WhichOneof("encoding") == "dense_u16"
    assert decoded(Counts(above, 2).to_proto()).counts.max() == 65_536


def test_a_pipeline_rank_sends_its_layers():
    message = Counts(routed(3, 16, 2, 40), 2, layer_offset=5, num_layers=12).to_proto()
    back = decoded(message)
    assert (back.geometry.num_layers, back.layer_offset, back.whole) == (12, 5, False)


def test_arrays_that_are_not_contiguous_or_unsigned():
    array = routed(4, 32, 2, 100)
    for view in (np.asfortranarray(array), array.astype(np.uint8), array[:, ::-1]):
        np.testing.assert_array_equal(decoded(Counts(view, 2).to_proto()).counts, view)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: as_message(routed(2, 8, 2, 4)), "a bare array needs top_k"),
        (lambda: as_message([[1, 1]], 2), "found list"),
        (lambda: Counts(np.ones(4, int), 2), r"expected an integer array \[layers, experts\]"),
        (lambda: Counts(np.ones((2, 4)), 2), "found float64"),
        (lambda: Counts(np.array([[-1, 3]]), 2), "found -1 to 3"),
        (lambda: Counts(np.array([[2, 2], [2, 3]]), 2), "row sums of 4 to 5"),
        (lambda: Counts(np.array([[2, 1]]), 2), "row sums of 3 to 3"),
        (lambda: Counts(np.array([[2, 2]]), 2, num_tokens=3), r"\(3 x 2\)"),
        (lambda: Counts(np.array([[2, 2]]), 3), "top_k: expected 1 to 2"),
        (lambda: as_message(ActivationCounts(), unknown_tokens=1), "unknown_tokens"),
    ],
)
def test_counts_that_are_none_say_why(make, says):
    with pytest.raises(ValueError, match=says):
        make()
