"""Recorded routing: which experts each token of each request was sent to."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The requests of one workload on one model, end to end in one array.

    Attributes
    ----------
    expert_ids : ndarray of uint8 or uint16, shape [tokens, layers, top_k]
    offsets : ndarray of int64, shape [requests + 1]
        Request r owns the tokens ``offsets[r]:offsets[r + 1]``.
    prefill_len : ndarray of int32, shape [requests]
        Its first tokens, which stand for the prefill; the others are its decode.
    domain : ndarray of str, shape [requests]
        Task or topic; a router never sees it.
    num_experts : int
        Experts per layer.
    """

    expert_ids: NDArray[np.unsignedinteger]
    offsets: NDArray[np.int64]
    prefill_len: NDArray[np.int32]
    domain: NDArray[np.str_]
    num_experts: int

    def __post_init__(self) -> None:
        lengths = np.diff(self.offsets)
        if len({len(lengths), len(self.prefill_len), len(self.domain)}) != 1:
            raise ValueError("offsets, prefill_len and domain must be of the same requests")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.expert_ids):
            raise ValueError(f"offsets must go from 0 to {len(self.expert_ids)} tokens")
        if (self.prefill_len < 1).any() or (self.prefill_len >= lengths).any():
            raise ValueError("every request needs a prefill and a decode token at least")
        if self.expert_ids.max() >= self.num_experts:
            raise ValueError(f"expert_ids must be below num_experts = {self.num_experts}")

    def __len__(self) -> int:
        return len(self.prefill_len)

    def prefill(self, request: int) -> slice:
        """The tokens of a request's prefill."""
        start = int(self.offsets[request])
        return slice(start, start + int(self.prefill_len[request]))

    def decode(self, request: int) -> slice:
        """The tokens of a request's decode."""
        return slice(self.prefill(request).stop, int(self.offsets[request + 1]))

    def counts(self, tokens: slice) -> NDArray[np.uint32]:
        """How often these tokens picked each expert, shape [layers, num_experts]."""
        ids = self.expert_ids[tokens]
        layers = ids.shape[1]
        flat = np.arange(layers)[:, None] * self.num_experts + ids
        counts = np.bincount(flat.ravel(), minlength=layers * self.num_experts)
        return counts.astype(np.uint32).reshape(layers, self.num_experts)

    def save(self, path: Path) -> None:
        """Write a compressed .npz with the attributes as its arrays."""
        with path.open("wb") as file:  # given a name, NumPy would add a suffix of its own
            np.savez_compressed(
                file,
                expert_ids=self.expert_ids,
                offsets=self.offsets,
                prefill_len=self.prefill_len,
                domain=self.domain,
                num_experts=np.int32(self.num_experts),
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; KeyError when an array is missing."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                expert_ids=arrays["expert_ids"],
                offsets=arrays["offsets"],
                prefill_len=arrays["prefill_len"],
                domain=arrays["domain"],
                num_experts=int(arrays["num_experts"]),
            )

    @classmethod
    def sample(cls) -> Self:
        """The sample that comes with the project: real requests to a small trained Qwen3-MoE.

        `benchmarks/tiny_moe` trained the model and recorded it: 4 layers x 32 experts, top-2; ten
        kinds of text, prefill and decode of each request as the model ran them. Its README has the
        sample's locality beside that of real models.
        """
        with as_file(files(__package__) / "sample.npz") as path:
            return cls.load(path)
