"""Recorded routing, token by token or as counts; from `.npz` files or engines' recordings."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.lab.recordings.engine_files import read_engine_files
from eldr_service.lab.recordings.joined import join
from eldr_service.lab.recordings.npz import read_arrays


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Requests of one workload on one model.

    Attributes
    ----------
    geometry : ModelGeometry
    domains : ndarray of str, shape [n]
        Task or topic, empty if the file has none; for evaluation, a router never sees it.
    counts : ndarray of uint32, shape [n, L, E], or None
        Of the prefills, if their tokens were not recorded one by one: in an aggregate file, where
        the other three are None, and in engines' recordings.
    expert_ids : ndarray of int, shape [tokens, L, top_k], or None
        The experts of every token, all requests end to end.
    offsets : ndarray of int64, shape [n + 1], or None
        Request r owns the tokens ``offsets[r]:offsets[r + 1]``.
    prefill_len : ndarray of int64, shape [n], or None
        How many of a request's first tokens are its prefill; the rest are its decode. 0 if there
        are counts.
    """

    geometry: ModelGeometry
    domains: NDArray[np.str_]
    _: KW_ONLY
    counts: NDArray[np.uint32] | None = None
    expert_ids: NDArray[np.integer] | None = None
    offsets: NDArray[np.int64] | None = None
    prefill_len: NDArray[np.int64] | None = None

    @classmethod
    def load(cls, path: str | Path, top_k: int | None = None) -> Self:
        """Read a file with arrays named as the attributes, `domain` and `num_experts`.

        Parameters
        ----------
        path : str or Path
            Or the folder of engines' recordings (docs/recording.md).
        top_k : int, optional
            Required for aggregate files, whose row sums are tokens x top_k and determine neither.

        Raises
        ------
        ValueError
            Says which array of the file is invalid.
        """
        if Path(path).is_dir():
            return cls._of_engines(Path(path), top_k)
        arrays: dict[str, NDArray[Any]] = {}
        try:
            arrays = read_arrays(path)
            if "counts" in arrays:
                return cls._of_counts(arrays, top_k)
            return cls._of_tokens(arrays, top_k)
        except KeyError as error:
            raise ValueError(f"{path}: no array {error}; there are {sorted(arrays)}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _of_engines(cls, folder: Path, top_k: int | None) -> Self:
        files = read_engine_files(folder)
        if top_k not in (None, files.top_k):
            raise ValueError(f"{folder}: the model is of top_k {files.top_k}, not {top_k}")
        joined = join(files)
        n, num_layers = joined.counts.shape[:2]
        if not n:
            raise ValueError(f"{folder}: no request has its experts recorded in both halves")
        shapes = joined.counts.shape[1:], joined.experts.shape[1:]
        if shapes != ((num_layers, files.num_experts), (num_layers, files.top_k)):
            raise ValueError(f"{folder}: the halves differ in the model's geometry: {shapes}")
        return cls(
            ModelGeometry(num_layers, files.num_experts, files.top_k),
            np.full(n, ""),
            counts=joined.counts,
            expert_ids=joined.experts,
            offsets=joined.offsets,
            prefill_len=np.zeros(n, np.int64),
        )

    @classmethod
    def _of_counts(cls, arrays: dict[str, NDArray[Any]], top_k: int | None) -> Self:
        counts = _integers(arrays, "counts", 3)
        if not counts.size or counts.min() < 0 or counts.max() >= 2**32:
            raise ValueError("counts must be from 0 to 2^32 - 1, and not empty")
        if top_k is None:
            raise ValueError("it has counts, not tokens: give the model's top_k")
        n, num_layers, num_experts = counts.shape
        geometry = ModelGeometry(num_layers, num_experts, top_k)
        return cls(geometry, _domains(arrays, n), counts=counts.astype(np.uint32))

    @classmethod
    def _of_tokens(cls, arrays: dict[str, NDArray[Any]], top_k: int | None) -> Self:
        ids = _integers(arrays, "expert_ids", 3)
        offsets = _integers(arrays, "offsets", 1).astype(np.int64)
        prefill_len = _integers(arrays, "prefill_len", 1).astype(np.int64)
        num_experts = int(_integers(arrays, "num_experts", 0))
        tokens, num_layers, width = ids.shape
        if top_k not in (None, width):
            raise ValueError(f"expert_ids are of top_k {width}, not {top_k}")
        if not ids.size or ids.min() < 0 or ids.max() >= num_experts:
            raise ValueError(f"expert_ids must be from 0 to {num_experts - 1}, and not empty")
        lengths = np.diff(offsets)
        if offsets.size < 2 or offsets[0] != 0 or offsets[-1] != tokens or (lengths < 0).any():
            raise ValueError(f"offsets must ascend from 0 to {tokens}, the number of tokens")
        if prefill_len.shape != lengths.shape:
            raise ValueError(f"prefill_len must have {len(lengths)} entries, as offsets say")
        if (prefill_len < 0).any() or (prefill_len > lengths).any():
            raise ValueError("prefill_len must be from 0 to the request's number of tokens")
        return cls(
            ModelGeometry(num_layers, num_experts, width),
            _domains(arrays, len(lengths)),
            expert_ids=ids,
            offsets=offsets,
            prefill_len=prefill_len,
        )

    @property
    def num_requests(self) -> int:
        """n."""
        return len(self.domains)

    def prefill_counts(self) -> NDArray[np.uint32]:
        """Activation counts of every prefill, shape [n, L, E]."""
        if self.counts is not None:
            return self.counts
        return np.stack([self.counts_of(self.prefill(r)) for r in range(self.num_requests)])

    def decode_counts(self) -> NDArray[np.uint32] | None:
        """Activation counts of every decode, shape [n, L, E]; None if there are only counts."""
        if self.expert_ids is None:
            return None
        return np.stack([self.counts_of(self.decode(r)) for r in range(self.num_requests)])

    def prefill_tokens(self, request: int) -> int:
        """Number of known tokens of a request's prefill."""
        if self.counts is not None:
            return int(self.counts[request, 0].sum()) // self.geometry.top_k
        return int(self._tokens()[2][request])

    def prefill(self, request: int) -> slice:
        """The tokens of a request's prefill, none if it is recorded as counts.

        ValueError if there are only counts.
        """
        offsets, prefill_len = self._tokens()[1:]
        start = int(offsets[request])
        return slice(start, start + int(prefill_len[request]))

    def decode(self, request: int) -> slice:
        """The tokens of a request's decode; ValueError if there are only counts."""
        offsets = self._tokens()[1]
        return slice(self.prefill(request).stop, int(offsets[request + 1]))

    def counts_of(self, tokens: slice) -> NDArray[np.uint32]:
        """How often these tokens picked each expert, shape [L, E].

        ValueError if there are only counts.
        """
        g = self.geometry
        picks = np.arange(g.num_layers)[:, None] * g.num_experts + self._tokens()[0][tokens]
        counts = np.bincount(picks.ravel(), minlength=g.size)
        return counts.astype(np.uint32).reshape(g.num_layers, g.num_experts)

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz that `load` reads; ValueError if there are counts."""
        if self.counts is not None:
            raise ValueError("prefills are recorded as counts, not token by token")
        expert_ids, offsets, prefill_len = self._tokens()
        with Path(path).open("wb") as file:  # given a name, NumPy would append a suffix
            np.savez_compressed(
                file,
                expert_ids=expert_ids,
                offsets=offsets,
                prefill_len=prefill_len.astype(np.int32),
                domain=self.domains,
                num_experts=np.int32(self.geometry.num_experts),
            )

    def _tokens(self) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
        if self.expert_ids is None or self.offsets is None or self.prefill_len is None:
            raise ValueError("the recording has only counts, no tokens")
        return self.expert_ids, self.offsets, self.prefill_len


def _integers(arrays: dict[str, NDArray[Any]], name: str, ndim: int) -> NDArray[np.integer]:
    array = arrays[name]
    if array.ndim != ndim or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers of {ndim} dimensions, got {array.dtype} {list(array.shape)}"
        )
    return array


def _domains(arrays: dict[str, NDArray[Any]], n: int) -> NDArray[np.str_]:
    domains = arrays.get("domain", np.full(n, ""))
    if domains.shape != (n,) or domains.dtype.kind != "U":
        raise ValueError(f"domain must be {n} strings, got {domains.dtype} {list(domains.shape)}")
    return domains
