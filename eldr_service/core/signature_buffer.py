"""Signatures being received: chunks are summed until the request is placed and released."""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from eldr_service.core.activation import MAX_TOKENS, ActivationCounts, Counts
from eldr_service.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from eldr_service.core.geometry import ModelGeometry

MAX_CHUNKS = 65_536
_MAX_SHORT, _MAX_COUNT = np.iinfo(np.uint16).max, np.iinfo(np.uint32).max
_CHUNK_BYTES = 250  # approximate cost of a remembered chunk
_SIGNATURE_BYTES = 1_500  # and of an empty signature


class HeldSignature:
    """The sum of the chunks of one epoch of one request.

    Attributes
    ----------
    counts : ndarray of uint16, or uint32 where that is too narrow; shape [num_layers, num_experts]
    tokens, unknown : ndarray of int64, shape [num_layers]
        Tokens counted in each layer, and tokens with unknown experts there.
    """

    def __init__(self, geometry: ModelGeometry, epoch: int) -> None:
        self.geometry = geometry
        self.epoch = epoch
        self.counts: Counts = np.zeros((geometry.num_layers, geometry.num_experts), dtype=np.uint16)
        self.tokens = np.zeros(geometry.num_layers, dtype=np.int64)
        self.unknown = np.zeros(geometry.num_layers, dtype=np.int64)
        self.total_chunks = 0  # 0: not known yet
        self.prompt_tokens = 0
        self.prefill_worker = ""
        self.touched = 0.0
        # By sequence and first layer: pipeline ranks may all count from 0.
        self._chunks: dict[tuple[int, int], int] = {}
        self._sequences: set[int] = set()
        self._highest = -1

    @property
    def num_chunks(self) -> int:
        """Chunks received."""
        return len(self._chunks)

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        arrays = self.counts.nbytes + self.tokens.nbytes + self.unknown.nbytes
        return _SIGNATURE_BYTES + arrays + _CHUNK_BYTES * len(self._chunks)

    @property
    def tokens_held(self) -> int:
        """Tokens whose experts are known in every layer."""
        return int(self.tokens.min())

    @property
    def complete(self) -> bool:
        """Whether all sequences have come, and every layer has the same number of tokens."""
        seen = self.tokens + self.unknown
        return len(self._sequences) == self.total_chunks and bool((seen == seen[0]).all())

    @property
    def coverage(self) -> float:
        """Share of the prompt's tokens whose experts are known in every layer, 0 to 1."""
        held, prompt = self.known_of_prompt()
        return held / prompt if prompt else 0.0

    def known_of_prompt(self) -> tuple[int, int]:
        """Tokens whose experts are known in every layer, and prompt tokens seen so far."""
        held = self.tokens_held
        prompt = held + int(self.unknown.max())
        if not self.complete:
            prompt = max(prompt, self.prompt_tokens, int((self.tokens + self.unknown).max()))
        return held, prompt

    def add(
        self,
        chunk: ActivationCounts,
        *,
        sequence: int,
        total_chunks: int,
        prompt_tokens: int,
        fingerprint: int,
    ) -> None:
        """Add a chunk once. A refused chunk changes nothing.

        Raises
        ------
        InvalidArgumentError
            The sequence came before with other bytes, is outside what `last` announced, or the
            tokens add up to too many.
        """
        name = (sequence, chunk.layer_offset)
        before = self._chunks.get(name)
        if before is not None and before != fingerprint:
            raise InvalidArgumentError(
                "counts", f"the bytes that sequence {sequence} brought before", "other bytes"
            )
        highest = max(self._highest, sequence)
        total = total_chunks or self.total_chunks
        if self.total_chunks and total != self.total_chunks:
            raise InvalidArgumentError("total_chunks", f"{self.total_chunks}, as before", total)
        if total and highest >= total:
            raise InvalidArgumentError("sequence", f"below total_chunks = {total}", highest)
        rows = slice(chunk.layer_offset, chunk.layer_offset + len(chunk.counts))
        tokens = int(self.tokens[rows].max()) + chunk.num_tokens
        unknown = int(self.unknown[rows].max()) + chunk.unknown_tokens
        most = min(MAX_TOKENS, _MAX_COUNT // self.geometry.top_k)
        if max(tokens, unknown) > most:
            raise InvalidArgumentError("counts.num_tokens", f"at most {most} in all", tokens)
        self.total_chunks = total
        self.prompt_tokens = prompt_tokens or self.prompt_tokens
        if before is not None:
            return
        self._chunks[name] = fingerprint
        self._sequences.add(sequence)
        self._highest = highest
        if (
            self.counts.dtype == np.uint16
            and tokens * self.geometry.top_k > _MAX_SHORT
            and int(self.counts.max()) + int(chunk.counts.max()) > _MAX_SHORT
        ):
            self.counts = self.counts.astype(np.uint32)
        here = self.counts[rows]
        np.add(here, chunk.counts, out=here, casting="same_kind")
        self.tokens[rows] += chunk.num_tokens
        self.unknown[rows] += chunk.unknown_tokens


@dataclass(slots=True)
class _OfModel:
    """Signatures of one model; the one longest without a chunk comes first."""

    held: OrderedDict[str, HeldSignature] = field(default_factory=OrderedDict)
    nbytes: int = 0


class SignatureBuffer:
    """Held signatures of all models, bounded in time and memory.

    When memory is short, the model that holds most loses its oldest, so that no model's signatures,
    nor those of an unknown name, displace another's.

    Parameters
    ----------
    time_to_live : float
        Seconds that a signature is held after its last chunk.
    max_bytes : int
    """

    def __init__(self, time_to_live: float = 600.0, max_bytes: int = 256 << 20) -> None:
        self.time_to_live = time_to_live
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._models: dict[str, _OfModel] = {}

    def __len__(self) -> int:
        return sum(len(own.held) for own in self._models.values())

    @property
    def num_models(self) -> int:
        """Number of model names with a signature."""
        return len(self._models)

    def get(self, model: str, request_id: str) -> HeldSignature | None:
        """What is held for the request."""
        own = self._models.get(model)
        return own.held.get(request_id) if own else None

    def add(
        self,
        model: str,
        request_id: str,
        epoch: int,
        chunk: ActivationCounts,
        *,
        sequence: int,
        total_chunks: int = 0,
        prompt_tokens: int = 0,
        prefill_worker: str = "",
        fingerprint: int,
        now: float,
    ) -> tuple[HeldSignature, int]:
        """Add a chunk; a higher epoch replaces a lower one's chunks.

        Returns
        -------
        held : HeldSignature
        dropped : int
            Signatures of other requests dropped to free memory.

        Raises
        ------
        InvalidArgumentError
            As for `HeldSignature.add`; or the geometry differs from that of earlier chunks.
        FailedPreconditionError
            The epoch is below the held one.
        ResourceExhaustedError
            The signature alone exceeds the memory for all.
        """
        if sequence >= MAX_CHUNKS:
            raise InvalidArgumentError("sequence", f"below {MAX_CHUNKS}", sequence)
        if total_chunks > MAX_CHUNKS:
            raise InvalidArgumentError("total_chunks", f"at most {MAX_CHUNKS}", total_chunks)
        held = old = self.get(model, request_id)
        if old and epoch < old.epoch:
            raise FailedPreconditionError(
                f"epoch {epoch} is below epoch {old.epoch}, which is held"
            )
        if held is None or epoch > held.epoch:
            held = HeldSignature(chunk.geometry, epoch)
        if held.geometry != chunk.geometry:
            raise InvalidArgumentError("counts", f"{held.geometry}, as before", str(chunk.geometry))
        if held.nbytes + _CHUNK_BYTES > self.max_bytes:
            raise ResourceExhaustedError(
                f"a signature of {held.nbytes} bytes exceeds the memory for signatures,"
                f" {self.max_bytes} bytes",
                retry_after=self.time_to_live,
            )
        before = old.nbytes if old else 0
        held.add(
            chunk,
            sequence=sequence,
            total_chunks=total_chunks,
            prompt_tokens=prompt_tokens,
            fingerprint=fingerprint,
        )
        held.prefill_worker = prefill_worker or held.prefill_worker
        held.touched = now
        own = self._models.setdefault(model, _OfModel())
        own.held[request_id] = held
        own.held.move_to_end(request_id)
        own.nbytes += held.nbytes - before
        self.nbytes += held.nbytes - before
        dropped = 0
        while self.nbytes > self.max_bytes:
            largest = max(self._models, key=lambda name: self._models[name].nbytes)
            self._drop(largest, next(iter(self._models[largest].held)))
            dropped += 1
        return held, dropped

    def discard(self, model: str, request_id: str) -> None:
        """Drop a signature, if it is held."""
        if self.get(model, request_id):
            self._drop(model, request_id)

    def expire(self, now: float) -> int:
        """Drop signatures held for too long; returns how many."""
        dropped = 0
        for model in list(self._models):
            while own := self._models.get(model):
                request_id, held = next(iter(own.held.items()))
                if held.touched + self.time_to_live > now:
                    break
                self._drop(model, request_id)
                dropped += 1
        return dropped

    def _drop(self, model: str, request_id: str) -> None:
        own = self._models[model]
        nbytes = own.held.pop(request_id).nbytes
        own.nbytes -= nbytes
        self.nbytes -= nbytes
        if not own.held:
            del self._models[model]
