"""The result of a prefill, for the decode."""

from dataclasses import dataclass, field

from eldr_vllm.proxy.engines import Sent
from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.said import Answer


@dataclass(slots=True)
class Prefilled:
    """The answer of a prefill engine; `engine` is None if there was no prefill.

    With `follows` the decode engine prefills too, and reports both.
    """

    engine: Engine | None = None
    answer: Answer = field(default_factory=Answer)
    follows: bool = False
    # A decode engine has been asked to fetch the KV.
    sent: Sent = field(default_factory=Sent)

    @property
    def has_kv(self) -> bool:
        """Whether there is KV that a decode engine can fetch."""
        return self.answer.kv_transfer_params is not None

    @property
    def worker_id(self) -> str:
        """The prefill worker's id, if it is registered."""
        return self.engine.worker_id if self.engine and self.engine.model else ""

    @property
    def group(self) -> str:
        """The group that can fetch its KV; empty means any."""
        return self.engine.group if self.engine else ""
