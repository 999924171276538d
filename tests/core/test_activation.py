import numpy as np
import pytest
from eldr.v1 import activation_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from eldr_service.core.activation import MAX_TOKENS, ActivationCounts
from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature_buffer import SignatureBuffer
from eldr_service.server.rpc.reading import activation_counts

GEOMETRY = ModelGeometry(4, 6, 2)


def drawn_counts(rng, tokens, layers=4):
    """Each token picks two distinct experts in each layer."""
    counts = np.zeros((layers, 6), dtype=np.uint32)
    for row in counts:
        for _ in range(tokens):
            row[rng.choice(6, 2, replace=False)] += 1
    return counts


def message(counts, tokens, encoding, offset=0, **fields):
    made = pb.ActivationCounts(
        num_layers=4,
        layer_offset=offset,
        layers_present=len(counts),
        num_experts=6,
        top_k=2,
        num_tokens=tokens,
        **fields,
    )
    if encoding == "sparse":
        index = np.flatnonzero(counts)
        made.sparse.index.extend(index.tolist())
        made.sparse.count.extend(counts.ravel()[index].tolist())
    else:
        setattr(made, encoding, counts.astype(f"<u{int(encoding[-2:]) // 8}").tobytes())
    return made


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_split_order_and_encoding_adds_up_to_the_same(data):
    """By chunks of tokens and by pipeline ranks, which share the numbers or all count from 0."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1_000)))
    chunks = [
        drawn_counts(rng, t) for t in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    ]
    tokens = [int(chunk[0].sum()) // 2 for chunk in chunks]
    cut = data.draw(st.integers(0, 3))  # layers of the first rank; 0 for one rank alone
    ranks = [r for r in (slice(0, cut), slice(cut, 4)) if r.start < r.stop]
    shared = data.draw(st.booleans())
    parts = [
        (number * len(ranks) + place if shared else number, rank, number)
        for number in range(len(chunks))
        for place, rank in enumerate(ranks)
    ]
    total = len(parts) if shared else len(chunks)
    buffer = SignatureBuffer()
    order = data.draw(st.permutations(parts))
    for place, (sequence, rank, number) in enumerate(order):
        encoding = data.draw(st.sampled_from(["dense_u16", "dense_u32", "sparse"]))
        part = chunks[number][rank]
        sent = activation_counts("counts", message(part, tokens[number], encoding, rank.start))
        held, _ = buffer.add(
            "m", "r", 0, sent, sequence=sequence, total_chunks=total, fingerprint=1, now=0.0
        )
        if shared:
            assert held.complete == (place == len(order) - 1)
    whole = activation_counts("counts", message(sum(chunks), sum(tokens), "dense_u32"))
    assert held.complete
    assert held.tokens_held == sum(tokens)
    assert held.coverage == whole.coverage
    np.testing.assert_array_equal(held.counts, whole.counts)


ROW = np.array([[2, 0, 0, 0, 0, 0]] * 4, dtype=np.uint32)


@pytest.mark.parametrize(
    ("change", "field", "expected", "found"),
    [
        ({"num_tokens": 2}, "counts", "num_tokens x top_k = 4", "2 in the row of layer 0"),
        ({"num_layers": 0}, "num_layers", "1 to 1024", "0"),
        ({"num_layers": 2**31}, "num_layers", "1 to 1024", "2147483648"),
        ({"num_experts": 4_097}, "num_experts", "1 to 4096", "4097"),
        ({"top_k": 7}, "top_k", "1 to 6", "7"),
        ({"layer_offset": 4}, "layer_offset", "below 4", "4"),
        ({"layer_offset": 1}, "layers_present", "at most 3", "4"),
        ({"layers_present": 2**32 - 1}, "layers_present", "at most 4", "4294967295"),
        ({"layers_present": 3}, "dense_u16", "36 bytes (3 layers x 6 experts x 2)", "48 bytes"),
        ({"dense_u16": b"\0" * 47}, "dense_u16", "48 bytes", "47 bytes"),
        ({"dense_u32": b"\0" * 48}, "dense_u32", "96 bytes", "48 bytes"),
        ({"num_tokens": MAX_TOKENS + 1}, "num_tokens", f"0 to {MAX_TOKENS}", str(MAX_TOKENS + 1)),
        ({"unknown_tokens": 2**32 - 1}, "unknown_tokens", f"0 to {MAX_TOKENS}", str(2**32 - 1)),
        ({"sparse": {"index": [0, 6, 6], "count": [2] * 3}}, "sparse.index", "increasing", "not"),
        ({"sparse": {"index": [6, 0], "count": [2, 2]}}, "sparse.index", "increasing", "not"),
        ({"sparse": {"index": [0, 24], "count": [2, 2]}}, "sparse.index", "below 24", "24"),
        ({"sparse": {"index": [0, 6], "count": [2]}}, "sparse.count", "2 entries", "1"),
        ({"sparse": {"index": range(25)}}, "sparse.count", "25 entries", "0"),
        (
            {"sparse": {"index": range(25), "count": [1] * 25}},
            "sparse.index",
            "at most 24 entries",
            "25",
        ),
    ],
)
def test_what_is_wrong_is_named(change, field, expected, found):
    sent = message(ROW, 1, "dense_u16")
    sent.MergeFrom(pb.ActivationCounts(**change))
    for name, value in change.items():  # merging leaves zeros out
        if value == 0:
            setattr(sent, name, 0)
    with pytest.raises(InvalidArgumentError) as error:
        activation_counts("counts", sent)
    assert error.value.field.removeprefix("counts.") == field
    assert expected in error.value.expected
    assert found in error.value.found


def test_an_encoding_is_needed_for_tokens():
    sent = message(ROW, 1, "dense_u16")
    sent.ClearField("dense_u16")
    with pytest.raises(
        InvalidArgumentError, match=r"counts.encoding: expected dense_u16, dense_u32 or"
    ):
        activation_counts("counts", sent)
    sent.num_tokens = 0
    assert not activation_counts("counts", sent).counts.any()


def test_large_counts_do_not_wrap():
    one = np.zeros((1, 1), dtype=np.uint32) + MAX_TOKENS
    geometry = ModelGeometry(1, 1, 1)
    assert ActivationCounts(geometry, 0, one, MAX_TOKENS).coverage == 1.0
    wide = ModelGeometry(1, 4_096, 4_096)  # a row sum that needs more than 32 bits
    ActivationCounts(wide, 0, np.full((1, 4_096), MAX_TOKENS, np.uint32), MAX_TOKENS)


def test_coverage():
    def coverage(known, unknown):
        return ActivationCounts(GEOMETRY, 0, ROW * known, known, unknown).coverage

    assert [coverage(0, 0), coverage(0, 3), coverage(3, 1), coverage(3, 0)] == [0, 0, 0.75, 1]
