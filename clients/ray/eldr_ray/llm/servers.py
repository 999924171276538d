"""Ray's LLM servers, each with its engine registered at the daemon as the replica that it is."""

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
        # The connector asks its engine for completions, to see that it tells their experts rightly.
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
    """Computes prompts, and answers with the experts that they used."""

    role = "prefill"


class DecodeServer(_Registered):
    """Writes answers, reports what it runs, ends bookings."""

    role = "decode"


class _Loopback(uvicorn.Server):
    """vLLM's own HTTP server, for this machine alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are Ray's."""
        yield
