"""Whether the decode engine or its link is at fault when a decode with remote KV fails.

An engine restarted at its address may be well while a prefill engine keeps stale transfer state of
its former incarnation: then the decodes of that one pair fail, and no others. So one failure only
counts against the pair. An engine that also fails with a second partner is itself at fault.
"""

from collections.abc import Iterable

from eldr_vllm.proxy.cooldown import CoolDown


class Links:
    """The pairs of prefill and decode engines that failed recently."""

    def __init__(self, prefill: CoolDown, decode: CoolDown) -> None:
        self._prefill = prefill
        self._decode = decode
        self._pairs = CoolDown()

    def failed(self, prefill_id: str, decode_ids: Iterable[str]) -> None:
        """A decode engine with these names failed with KV from that prefill engine."""
        decode_ids = list(decode_ids)
        self._pairs.failed(f"{prefill_id} -> {decode_id}" for decode_id in decode_ids)
        pairs = self._failing()
        if any(prefill != prefill_id and decode in decode_ids for prefill, decode in pairs):
            self._decode.failed(decode_ids)
        if any(prefill == prefill_id and decode not in decode_ids for prefill, decode in pairs):
            self._prefill.failed([prefill_id])

    def succeeded(self, prefill_id: str, decode_ids: Iterable[str]) -> None:
        """It succeeded."""
        self._pairs.succeeded(f"{prefill_id} -> {decode_id}" for decode_id in decode_ids)

    def decoders_to_avoid(self, prefill_id: str) -> set[str]:
        """The decode engines that should not fetch KV from there now."""
        return {decode for prefill, decode in self._failing() if prefill == prefill_id}

    def _failing(self) -> list[tuple[str, str]]:
        pairs = (pair.partition(" -> ") for pair in self._pairs.worker_ids)
        return [(prefill, decode) for prefill, _, decode in pairs]
