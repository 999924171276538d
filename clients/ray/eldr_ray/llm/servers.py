"""Ray's LLM servers, each with its engine registered at the daemon as the replica that it is."""

from typing import Any, ClassVar

from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from eldr_ray.identity import own_worker_id


class _Registered(LLMServer):
    role: ClassVar[str]

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, llm_config: LLMConfig, **options: Any
    ) -> None:
        own = own_worker_id()
        transfer = llm_config.engine_kwargs["kv_transfer_config"]
        extra = transfer["kv_connector_extra_config"]
        eldr = {
            **extra["eldr"],
            "worker_id": own,
            "role": self.role,
            # Nothing calls the engine but its replica: there is no HTTP server to be asked.
            "url": f"serve://{own}",
            "health_check": False,
            "probe": False,
        }
        transfer = {**transfer, "kv_connector_extra_config": {**extra, "eldr": eldr}}
        llm_config.update_engine_kwargs(kv_transfer_config=transfer)
        await super().__init__(llm_config, **options)


class PrefillServer(_Registered):
    """Computes prompts, and answers with the experts that they used."""

    role = "prefill"


class DecodeServer(_Registered):
    """Writes answers, reports what it runs, ends bookings."""

    role = "decode"
