"""Hashes of prompt prefixes, by which the daemon knows which workers hold their KV already.

A prompt is cut into blocks; hash k is of its first k + 1 blocks. Proxy and shim compute the same
hashes from the same token ids.
"""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import islice

BLOCK_TOKENS = 128
MOST = 4_096
"""The most that the daemon reads."""


def prefix_hashes(model: str, salt: str, blocks: Iterable[bytes]) -> list[int]:
    """Hashes, shortest prefix first; prompts of different models or cache salts share none."""
    before = blake2b(f"{model}\0{salt}\0".encode(errors="replace"), digest_size=8)
    hashes = []
    for block in islice(blocks, MOST):
        before.update(block)
        hashes.append(int.from_bytes(before.copy().digest(), "little"))
    return hashes


def token_blocks(ids: Sequence[int]) -> Iterable[bytes]:
    """The full blocks of a prompt."""
    for at in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        yield json.dumps(ids[at : at + BLOCK_TOKENS]).encode()
