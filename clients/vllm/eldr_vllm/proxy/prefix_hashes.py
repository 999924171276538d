"""Hashes of what prompts begin with, by which the daemon knows who holds their KV already.

A prompt is cut into blocks of about 128 tokens, exactly as many where it is given as token ids, and
hash k is of its first k + 1 blocks. A conversation's messages come in their order, so that a turn
begins as the one before.
"""

import json
from hashlib import blake2b

from eldr_vllm.proxy.legs import Leg

BLOCK_TOKENS = 128
BLOCK_CHARACTERS = 4 * BLOCK_TOKENS  # a token stands for some four
MOST = 4_096  # that the daemon reads


def prefix_hashes(leg: Leg) -> list[int]:
    """Those of a leg's prompt, the shortest prefix's first; none of what is shorter than a block.

    Prompts of different models or cache salts have none in common.
    """
    salt = leg.body.get("cache_salt")
    root = f"{leg.model}\0{salt if isinstance(salt, str) else ''}\0"
    before = blake2b(root.encode(errors="replace"), digest_size=8)
    hashes = []
    for block in _blocks(leg)[:MOST]:
        before.update(block)
        hashes.append(int.from_bytes(before.copy().digest(), "little"))
    return hashes


def _blocks(leg: Leg) -> list[bytes]:
    said = [leg.body.get(name) for name in leg.endpoint.prompt]
    ids = said[0]
    if isinstance(ids, list) and ids and all(type(i) is int for i in ids):
        whole = len(ids) - len(ids) % BLOCK_TOKENS
        return [
            json.dumps(ids[at : at + BLOCK_TOKENS]).encode() for at in range(0, whole, BLOCK_TOKENS)
        ]
    parts = [each for part in said for each in (part if isinstance(part, list) else [part])]
    text = "\0".join(
        p if isinstance(p, str) else json.dumps(p, ensure_ascii=False)
        for p in parts
        if p is not None
    )
    whole = len(text) - len(text) % BLOCK_CHARACTERS
    return [
        text[at : at + BLOCK_CHARACTERS].encode(errors="replace")
        for at in range(0, whole, BLOCK_CHARACTERS)
    ]
