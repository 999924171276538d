"""Hashes of the prefixes of a leg's prompt.

Blocks have about 128 tokens, exactly that if the prompt is given as token ids. A conversation's
messages are hashed in order, so that a turn begins like the one before.
"""

import json
from collections.abc import Iterable

from eldr_vllm.prefix_hashes import BLOCK_TOKENS, prefix_hashes, token_blocks
from eldr_vllm.proxy.legs import Leg

BLOCK_CHARACTERS = 4 * BLOCK_TOKENS  # a token is about four


def of_leg(leg: Leg) -> list[int]:
    """Hashes, shortest prefix first; empty if the prompt is shorter than a block."""
    salt = leg.body.get("cache_salt")
    return prefix_hashes(leg.model, salt if isinstance(salt, str) else "", _blocks(leg))


def _blocks(leg: Leg) -> Iterable[bytes]:
    said = [leg.body.get(name) for name in leg.endpoint.prompt]
    ids = said[0]
    if isinstance(ids, list) and ids and all(type(i) is int for i in ids):
        return token_blocks(ids)
    parts = [each for part in said for each in (part if isinstance(part, list) else [part])]
    text = "\0".join(
        p if isinstance(p, str) else json.dumps(p, ensure_ascii=False)
        for p in parts
        if p is not None
    )
    whole = len(text) - len(text) % BLOCK_CHARACTERS
    return (
        text[at : at + BLOCK_CHARACTERS].encode(errors="replace")
        for at in range(0, whole, BLOCK_CHARACTERS)
    )
