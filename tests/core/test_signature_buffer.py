import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eldr_service.core.activation import MAX_TOKENS, ActivationCounts
from eldr_service.core.errors import (
    EldrError,
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature_buffer import MAX_CHUNKS, SignatureBuffer

GEOMETRY = ModelGeometry(2, 4, 1)


def chunk(tokens, geometry=GEOMETRY, offset=0, unknown=0):
    layers = geometry.num_layers - offset
    counts = np.zeros((layers, geometry.num_experts), dtype=np.uint32)
    counts[:, 0] = tokens
    return ActivationCounts(geometry, offset, counts, tokens, unknown)


def add(buffer, tokens=1, *, model="m", request="r", epoch=0, sequence=0, now=0.0, **fields):
    fields.setdefault("fingerprint", tokens)
    part = fields.pop("part", None) or chunk(tokens)
    return buffer.add(model, request, epoch, part, sequence=sequence, now=now, **fields)[0]


def everything(buffer):
    return {(m, r): held for m, own in buffer._models.items() for r, held in own.held.items()}


def state(buffer):
    return buffer.nbytes, {
        key: (held.epoch, held.counts.tobytes(), held.tokens.tolist(), held.total_chunks)
        for key, held in everything(buffer).items()
    }


def test_the_same_again_is_ignored():
    buffer = SignatureBuffer()
    add(buffer, 3)
    before = state(buffer)
    assert add(buffer, 3).tokens_held == 3
    assert state(buffer) == before


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"tokens": 4}, InvalidArgumentError),  # other bytes
        ({"epoch": 4}, FailedPreconditionError),
        ({"sequence": 2}, InvalidArgumentError),  # beyond the last
        ({"sequence": 1, "total_chunks": 5}, InvalidArgumentError),
        ({"sequence": MAX_CHUNKS, "epoch": 6}, InvalidArgumentError),
        ({"sequence": 1, "total_chunks": MAX_CHUNKS + 1}, InvalidArgumentError),
        ({"sequence": 1, "part": chunk(1, ModelGeometry(3, 4, 1))}, InvalidArgumentError),
        ({"sequence": 1, "tokens": MAX_TOKENS}, InvalidArgumentError),
        ({"sequence": 1, "part": chunk(0, unknown=MAX_TOKENS)}, InvalidArgumentError),
        ({"epoch": 6, "sequence": 1, "total_chunks": 1}, InvalidArgumentError),
    ],
)
def test_what_is_refused_has_no_effect(wrong, error):
    buffer = SignatureBuffer()
    add(buffer, part=chunk(3, unknown=1), tokens=3, epoch=5, total_chunks=2)
    before = state(buffer)
    with pytest.raises(error):
        add(buffer, **{"epoch": 5, "tokens": 1} | wrong)
    assert state(buffer) == before


def test_a_higher_epoch_replaces():
    buffer = SignatureBuffer()
    add(buffer, 3, total_chunks=2)
    held = add(buffer, 7, epoch=1, total_chunks=1)
    assert (held.tokens_held, held.complete, len(buffer)) == (7, True, 1)


def test_missing_chunks_are_missing_coverage():
    buffer = SignatureBuffer()
    held = add(buffer, 3, sequence=1, total_chunks=2, prompt_tokens=12)
    assert (held.complete, held.coverage) == (False, 0.25)
    held = add(buffer, 9)
    assert (held.complete, held.coverage) == (True, 1.0)
    ranks = SignatureBuffer()
    held = add(ranks, part=chunk(4, offset=1), tokens=4, total_chunks=1)
    assert (held.complete, held.coverage, held.tokens_held) == (False, 0.0, 0)


def test_the_oldest_go_first():
    buffer = SignatureBuffer()
    for i in range(3):
        add(buffer, request=f"r{i}", now=float(i))
    buffer.max_bytes = buffer.nbytes  # there is room for three
    add(buffer, request="r0", now=3.0)  # a sign of life: r1 is the oldest now
    add(buffer, request="r3", now=4.0)
    assert [buffer.get("m", f"r{i}") is not None for i in range(4)] == [True, False, True, True]


def test_a_model_makes_room_among_its_own():
    buffer = SignatureBuffer()
    for i in range(3):
        add(buffer, request=f"r{i}", now=float(i))
    buffer.max_bytes = 2 * buffer.nbytes
    for i in range(20):
        add(buffer, model="flood", request=f"r{i}", now=3.0 + i)
    assert [buffer.get("m", f"r{i}") is not None for i in range(3)] == [True] * 3
    assert buffer.get("flood", "r19") is not None
    assert buffer.get("flood", "r0") is None
    assert buffer.num_models == 2
    assert buffer.expire(1e9) == 6
    assert (len(buffer), buffer.nbytes, buffer.num_models) == (0, 0, 0)


def test_one_that_can_never_fit_displaces_nobody():
    buffer = SignatureBuffer(max_bytes=4_000)
    add(buffer)
    large = chunk(1, ModelGeometry(16, 128, 1))
    with pytest.raises(ResourceExhaustedError, match="exceeds the memory"):
        add(buffer, request="large", part=large)
    assert len(buffer) == 1


def test_time_to_live_counts_from_the_last_chunk():
    buffer = SignatureBuffer(time_to_live=10.0)
    add(buffer, request="a")
    add(buffer, request="b", now=5.0)
    add(buffer, 2, request="a", sequence=1, now=6.0)
    assert buffer.expire(14.9) == 0
    assert buffer.expire(15.0) == 1
    assert buffer.get("m", "a")
    assert buffer.expire(16.0) == 1
    assert (len(buffer), buffer.nbytes) == (0, 0)


steps = st.one_of(
    st.tuples(
        st.just("add"),
        st.sampled_from("abcd"),
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 2),
        st.integers(1, 3),
    ),
    st.tuples(st.just("discard"), st.sampled_from("abcd")),
    st.tuples(st.just("expire"), st.integers(1, 8)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=40))
def test_bytes_are_counted_exactly_whatever_happens(sequence_of_steps):
    buffer, now = SignatureBuffer(time_to_live=5.0, max_bytes=6_500), 0.0
    for kind, *rest in sequence_of_steps:
        if kind == "add":
            request, epoch, sequence, total, tokens = rest
            before = state(buffer)
            try:
                add(
                    buffer,
                    tokens,
                    request=request,
                    epoch=epoch,
                    sequence=sequence,
                    total_chunks=total,
                    now=now,
                )
            except EldrError:
                assert state(buffer) == before
        elif kind == "discard":
            buffer.discard("m", rest[0])
            assert buffer.get("m", rest[0]) is None
        else:
            now += rest[0]
            buffer.expire(now)
            assert all(held.touched + 5.0 > now for held in everything(buffer).values())
        assert buffer.nbytes == sum(held.nbytes for held in everything(buffer).values())
        assert buffer.nbytes <= buffer.max_bytes
