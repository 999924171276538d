import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform
from eldr_service.stores.partition_file import dump_partition, load_partition

GEOMETRY = ModelGeometry(3, 4, 2)


def partition(name="counts-idf", **changes):
    rng = np.random.default_rng(5)
    idf = rng.random((3, 4), dtype=np.float32) if name == "counts-idf" else None
    centroids = rng.random((5, 8))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    made = Partition(
        model="org/model@main",
        transform=SignatureTransform(GEOMETRY, name, np.array([0, 2]), idf),
        centroids=centroids.astype(np.float32),
        version=7,
        bindings={"decode-1": 4, "décode-2": 0},
        metadata={"algorithm": "balanced-kmeans", "seed": "0"},
        created=1_783_000_000.123456,
    )
    return replace(made, **changes)


def metadata_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def rewritten(metadata=None, tensors=None, drop=()):
    """A file as another program might write it, with some of its parts changed."""
    data = dump_partition(partition())
    held = {**load(data), **(tensors or {})}
    told = {**metadata_of(data), **(metadata or {})}
    return save(
        {k: v for k, v in held.items() if k not in drop},
        {k: v for k, v in told.items() if k not in drop},
    )


@pytest.mark.parametrize("name", ["counts", "counts-idf", "sqrt"])
def test_round_trip_is_bit_exact(name):
    before = partition(name)
    after = load_partition(dump_partition(before))
    for field in ("model", "version", "bindings", "metadata", "created", "geometry"):
        assert getattr(after, field) == getattr(before, field)
    assert after.transform.name == name
    np.testing.assert_array_equal(after.transform.layers, before.transform.layers)
    assert after.centroids.tobytes() == before.centroids.tobytes()
    if name == "counts-idf":
        assert after.transform.idf.tobytes() == before.transform.idf.tobytes()
    assert dump_partition(after) == dump_partition(before)


def test_any_safetensors_writer_will_do():
    assert load_partition(rewritten()).bindings == partition().bindings


@pytest.mark.parametrize("key", metadata_of(dump_partition(partition())))
def test_missing_metadata_is_named(key):
    with pytest.raises(InvalidArgumentError) as error:
        load_partition(rewritten(drop=[key]))
    assert error.value.field == key


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"format": "eldr-partition/2"}, "format"),
        ({"version": "-1"}, "version"),
        ({"version": str(2**70)}, "version"),
        ({"num_layers": "9999999"}, "num_layers"),
        ({"num_layers": "many"}, "num_layers"),
        ({"num_experts": "5"}, "idf"),
        ({"top_k": "5"}, "top_k"),
        ({"transform": "cosine"}, "transform"),
        ({"transform": "sqrt"}, "idf"),
        ({"layers": "[2, 0]"}, "layers"),
        ({"layers": "[]"}, "layers"),
        ({"layers": "[99]"}, "layers"),
        ({"layers": f"[{2**80}]"}, "layers"),
        ({"layers": "[0, 1, 2]"}, "centroids"),
        ({"num_slots": "4"}, "centroids"),
        ({"bindings": '{"w": 5}'}, "bindings[w]"),
        ({"bindings": '{"w": "x"}'}, "bindings"),
        ({"bindings": "{"}, "bindings"),
        ({"created": "NaN"}, "created"),
        ({"fit": '{"seed": 0}'}, "fit"),
    ],
)
def test_wrong_metadata_is_named(metadata, field):
    with pytest.raises(InvalidArgumentError) as error:
        load_partition(rewritten(metadata))
    assert error.value.field == field


ROWS = partition().centroids


@pytest.mark.parametrize(
    ("tensors", "field"),
    [
        ({"centroids": ROWS * np.float32("nan")}, "centroids"),
        ({"centroids": ROWS * 2}, "centroids"),
        ({"centroids": ROWS[:, :4]}, "centroids"),
        ({"centroids": ROWS.ravel()}, "centroids"),
        ({"centroids": ROWS[:0]}, "centroids"),
        ({"centroids": np.ones((), dtype=np.float32)}, "centroids"),
        ({"centroids": ROWS.astype(np.float64)}, "centroids"),
        ({"idf": np.full((3, 4), np.inf, dtype=np.float32)}, "idf"),
        ({"idf": np.zeros((2, 4), dtype=np.float32)}, "idf"),
        ({"weights": ROWS}, "tensors"),
    ],
)
def test_wrong_tensors_are_named(tensors, field):
    with pytest.raises(InvalidArgumentError) as error:
        load_partition(rewritten(tensors=tensors))
    assert error.value.field == field


def test_missing_centroids():
    with pytest.raises(InvalidArgumentError, match="tensors: expected centroids"):
        load_partition(rewritten(drop=["centroids"]))


def test_another_models_weights():
    with pytest.raises(InvalidArgumentError, match="format: expected eldr-partition/1"):
        load_partition(save({"model.embed": ROWS}))


@given(st.integers(0, 1000))
def test_truncated(length):
    whole = dump_partition(partition())
    with pytest.raises(InvalidArgumentError):
        load_partition(whole[: min(length, len(whole) - 1)])


@given(st.binary(max_size=200))
def test_not_a_file_of_that_kind(data):
    with pytest.raises(InvalidArgumentError, match="data"):
        load_partition(data)


@given(st.integers(0, 900), st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_read(position, value):
    data = bytearray(dump_partition(partition()))
    data[position % len(data)] = value
    with suppress(InvalidArgumentError):
        load_partition(bytes(data))
