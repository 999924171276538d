"""The contents of a recording, as columns; docs/recording.md describes them for readers.

Each table is a list of rows by columns. A frame of a file has the rows of about one second.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

FORMAT = "eldr-recording/1"

Row = Sequence[Any]
"""One value per column of a table, with rows put together along its first axis."""

# Table -> column -> dtype; None: unchanged.
TABLES: dict[str, dict[str, type | None]] = {
    # times: arrival, first scheduled, prompt read. tokens: of the prompt.
    "prefills": {"request": np.uint64, "times": np.float64, "tokens": np.uint32},
    # unknown: prompt tokens that are in no counts. counts: [L, E].
    "signatures": {"request": np.uint64, "unknown": np.uint32, "counts": None},
    # times: arrival, first token, end. tokens: of the prompt, of the answer, rows in `tokens`.
    "decodes": {
        "request": np.uint64,
        "sequence": np.uint32,
        "times": np.float64,
        "tokens": np.uint32,
    },
    # experts: [L, top_k], a row for each token of an answer, in its order.
    "tokens": {"sequence": np.uint32, "experts": None},
    # times: end, seconds. sizes: sequences that got a token, tokens computed, tokens of context,
    # distinct experts summed over the layers.
    "steps": {"times": np.float64, "sizes": np.uint32},
}


def request_key(name: str) -> int:
    """A request's id in 64 bits, the same in every engine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def is_sampled(key: int, share: float) -> bool:
    """Whether this request's experts are recorded, for a share of all: the same in every engine."""
    return key < share * 2**64


def frame(rows: Mapping[str, Sequence[Row]], about: Mapping[str, str]) -> bytes:
    """The rows of each table as one safetensors document, preceded by its length in eight bytes."""
    tensors = {}
    for table, parts in rows.items():
        for (column, dtype), values in zip(
            TABLES[table].items(), zip(*parts, strict=True), strict=True
        ):
            joined = np.concatenate([np.asarray(value, dtype) for value in values])
            if column == "counts" and joined.max(initial=0) <= np.iinfo(np.uint16).max:
                joined = joined.astype(np.uint16)
            tensors[f"{table}.{column}"] = joined
    document: bytes = save(tensors, metadata={"format": FORMAT, **about})
    return len(document).to_bytes(8, "little") + document
