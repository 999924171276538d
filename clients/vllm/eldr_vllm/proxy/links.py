"""Whose fault it is that a decode with remote KV failed: the decode engine's, or its link's.

An engine that was restarted at its address may be well, and yet some prefill engine keep stale
transfer state of its former life: then the decodes of that one pair fail, and of no other. So one
failure says something of the pair alone. Who fails with a second partner has failed itself.
"""

from collections.abc import Iterable

from eldr_vllm.proxy.cooldown import CoolDown


class Links:
    """The pairs of prefill and decode engines that failed a moment ago."""

    def __init__(self, prefill: CoolDown, decode: CoolDown) -> None:
        self._prefill = prefill
        self._decode = decode
        self._pairs = CoolDown()

    def failed(self, prefill_id: str, decode_ids: Iterable[str]) -> None:
        """A decode engine, known under these names, could not do it with KV from there."""
        decode_ids = list(decode_ids)
        self._pairs.failed(f"{prefill_id} -> {decode_id}" for decode_id in decode_ids)
        pairs = self._failing()
        if any(prefill != prefill_id and decode in decode_ids for prefill, decode in pairs):
            self._decode.failed(decode_ids)
        if any(prefill == prefill_id and decode not in decode_ids for prefill, decode in pairs):
            self._prefill.failed([prefill_id])

    def succeeded(self, prefill_id: str, decode_ids: Iterable[str]) -> None:
        """It did it."""
        self._pairs.succeeded(f"{prefill_id} -> {decode_id}" for decode_id in decode_ids)

    def decoders_to_avoid(self, prefill_id: str) -> set[str]:
        """The decode engines that had better not fetch KV from there now."""
        return {decode for prefill, decode in self._failing() if prefill == prefill_id}

    def _failing(self) -> list[tuple[str, str]]:
        pairs = (pair.partition(" -> ") for pair in self._pairs.worker_ids)
        return [(prefill, decode) for prefill, _, decode in pairs]
