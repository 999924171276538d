"""Ray's LLM servers; each registers its engine at the daemon under its replica's id."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import uvicorn
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from eldr_ray.identity import own_worker_id


class _Registered(LLMServer):
    role: ClassVar[str]

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, llm_config: LLMConfig, **options: Any
    ) -> None:
        transfer = llm_config.engine_kwargs["kv_transfer_config"]
        extra = transfer["kv_connector_extra_config"]
        # The connector checks its engine's counts by completions that it requests at this address.
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        eldr = {
            **extra["eldr"],
            "worker_id": own_worker_id(),
            "role": self.role,
            "url": f"http://127.0.0.1:{listener.getsockname()[1]}",
        }
        transfer = {**transfer, "kv_connector_extra_config": {**extra, "eldr": eldr}}
        llm_config.update_engine_kwargs(kv_transfer_config=transfer)
        await super().__init__(llm_config, **options)
        app = uvicorn.Config(await self.engine.build_asgi_app(), log_level="warning")
        self._serving = asyncio.create_task(_Loopback(app).serve([listener]))


class PrefillServer(_Registered):
    """Computes prompts; its answers carry the activation counts."""

    role = "prefill"


class DecodeServer(_Registered):
    """Decodes, reports its running requests, and ends bookings."""

    role = "decode"


class _Loopback(uvicorn.Server):
    """vLLM's own HTTP server, on the loopback address only."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to Ray."""
        yield
