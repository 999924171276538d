"""A partition as one safetensors file: tensors `centroids` and `idf`, the rest in string metadata.

Equal partitions always give equal bytes, so files can be compared. Metadata values other than names
are JSON.
"""

import json
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, deserialize

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import MAX_LAYERS, ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform

FORMAT = "eldr-partition/1"

_WHOLE = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
# Types of the JSON metadata, and their descriptions.
_JSON: dict[str, tuple[TypeAdapter[Any], str]] = {
    "version": (TypeAdapter(_WHOLE), "a whole number"),
    "num_layers": (TypeAdapter(_WHOLE), "a whole number"),
    "num_experts": (TypeAdapter(_WHOLE), "a whole number"),
    "top_k": (TypeAdapter(_WHOLE), "a whole number"),
    "layers": (
        TypeAdapter(list[Annotated[int, Field(strict=True, ge=0, lt=MAX_LAYERS)]]),
        "a list of layer numbers",
    ),
    "num_slots": (TypeAdapter(_WHOLE), "a whole number"),
    "bindings": (TypeAdapter(dict[str, _WHOLE]), "an object of worker id to slot"),
    "created": (
        TypeAdapter(Annotated[float, Field(allow_inf_nan=False, ge=0)]),
        "Unix seconds",
    ),
    "fit": (TypeAdapter(dict[str, str]), "an object of strings"),
}


def dump_partition(partition: Partition) -> bytes:
    """Write a partition as the bytes of a file."""
    transform, geometry = partition.transform, partition.geometry
    assert transform.layers is not None
    metadata = {
        "format": FORMAT,
        "model": partition.model,
        "transform": transform.name,
        "version": json.dumps(partition.version),
        "num_layers": json.dumps(geometry.num_layers),
        "num_experts": json.dumps(geometry.num_experts),
        "top_k": json.dumps(geometry.top_k),
        "layers": json.dumps(transform.layers.tolist()),
        "num_slots": json.dumps(partition.num_slots),
        "bindings": json.dumps(dict(partition.bindings), sort_keys=True),
        "created": json.dumps(partition.created),
        "fit": json.dumps(dict(partition.metadata), sort_keys=True),
    }
    tensors = {"centroids": partition.centroids}
    if transform.idf is not None:
        tensors["idf"] = transform.idf
    # By hand, since the library's order of metadata varies.
    header: dict[str, Any] = {"__metadata__": metadata}
    body = b""
    for name, tensor in tensors.items():
        data = tensor.astype("<f4").tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + body


def load_partition(data: bytes) -> Partition:
    """Read what `dump_partition` wrote, bit for bit.

    InvalidArgumentError names what is wrong with any other file: a metadata key, a tensor, or
    `data` if it is not a safetensors file at all.
    """
    tensors, metadata = _parts(data)
    if metadata.get("format") != FORMAT:
        raise InvalidArgumentError("format", FORMAT, metadata.get("format", "none"))
    names = {key: _text(metadata, key) for key in ("model", "transform")}
    values = {key: _value(metadata, key) for key in _JSON}
    geometry = ModelGeometry(values["num_layers"], values["num_experts"], values["top_k"])
    idf = tensors.pop("idf", None)
    if idf is not None and not (np.isfinite(idf).all() and (idf >= 0).all()):
        raise InvalidArgumentError("idf", "finite values of at least 0", "others among them")
    layers = np.array(values["layers"], dtype=np.int64)
    transform = SignatureTransform(geometry, names["transform"], layers, idf)  # type: ignore[arg-type]
    centroids = tensors.pop("centroids", None)
    if centroids is None or tensors:
        raise InvalidArgumentError("tensors", "centroids, and idf if need be", sorted(tensors))
    if centroids.shape[:1] != (values["num_slots"],):
        expected = f"{values['num_slots']} rows, as num_slots says"
        raise InvalidArgumentError("centroids", expected, list(centroids.shape))
    return Partition(
        model=names["model"],
        transform=transform,
        centroids=centroids,
        version=values["version"],
        bindings=values["bindings"],
        metadata=values["fit"],
        created=values["created"],
    )


def _parts(data: bytes) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise InvalidArgumentError("data", "a whole safetensors file", str(error)) from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] != "F32":
            raise InvalidArgumentError(name, "dtype F32", entry["dtype"])
        flat = np.frombuffer(entry["data"], dtype="<f4")
        tensors[name] = flat.reshape(entry["shape"]).astype(np.float32)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def _text(metadata: dict[str, str], key: str) -> str:
    if not metadata.get(key):
        raise InvalidArgumentError(key, "a metadata key of the file, not empty", "none")
    return metadata[key]


def _value(metadata: dict[str, str], key: str) -> Any:
    adapter, expected = _JSON[key]
    text = _text(metadata, key)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise InvalidArgumentError(key, expected, text) from error
