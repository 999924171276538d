"""The router as a Dynamo component: to the frontend it is one decode worker."""

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

from dynamo.llm import (
    ModelInput,
    ModelRuntimeConfig,
    ModelType,
    RouterMode,
    WorkerType,
    register_model,
)
from dynamo.runtime import DistributedRuntime, dynamo_worker
from eldr_client.aio import RouterClient
from eldr_client.channel import DEFAULT_TARGET, Endpoint

from eldr_dynamo.decoding import Decoding
from eldr_dynamo.fleet import Fleet

logger = logging.getLogger("eldr_dynamo")

FALLBACKS = {
    "round-robin": RouterMode.RoundRobin,
    "random": RouterMode.Random,
    "power-of-two-choices": RouterMode.PowerOfTwoChoices,
    "least-loaded": RouterMode.LeastLoaded,
}

ENDPOINT_TYPES = {"chat": ModelType.Chat, "completions": ModelType.Completions}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one router runs."""

    model_path: str
    model_name: str
    endpoint: str
    serve: str
    router: str = DEFAULT_TARGET
    # The model's name at the daemon; None: `model_name`.
    eldr_model: str | None = None
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    root_certificates: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = None
    # Seconds that a placement may add to a request.
    route_timeout: float = 0.05
    attempts: int = 3
    capacity: int = 0
    fallback: str = "round-robin"
    # What the frontend is told about the workers; a model without a chat template has no chat.
    endpoint_types: tuple[str, ...] = ("chat", "completions")
    kv_cache_block_size: int | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None

    @property
    def credentials(self) -> dict[str, Any]:
        """The keywords of eldr_client for the daemon's TLS and token."""
        return {
            "token": self.token,
            "tls": self.tls,
            "root_certificates": self.root_certificates,
            "client_key": self.client_key,
            "client_certificate": self.client_certificate,
        }


@dynamo_worker()
async def serve(runtime: DistributedRuntime, settings: Settings) -> None:
    """Serve as the model's decode worker until SIGTERM, then finish the running requests."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.shutdown)
    instances = await runtime.endpoint(settings.endpoint).client(FALLBACKS[settings.fallback])
    logger.info("waiting for a decode worker at %s", settings.endpoint)
    await instances.wait_for_instances()
    model = settings.eldr_model or settings.model_name
    daemon = Endpoint(settings.router, **settings.credentials)
    fleet = Fleet(instances, settings.endpoint, model, daemon, settings.capacity)
    async with RouterClient(
        settings.router, timeout=settings.route_timeout, **settings.credentials
    ) as client:
        decoding = Decoding(client, fleet, instances, model, settings.attempts)
        following = asyncio.create_task(fleet.follow())
        try:
            await _stand_as_worker(runtime, settings, decoding)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


async def _stand_as_worker(
    runtime: DistributedRuntime, settings: Settings, decoding: Decoding
) -> None:
    endpoint = runtime.endpoint(settings.serve)
    told = ModelRuntimeConfig()
    told.tool_call_parser = settings.tool_call_parser
    told.reasoning_parser = settings.reasoning_parser
    await register_model(
        ModelInput.Tokens,
        reduce(or_, (ENDPOINT_TYPES[name] for name in settings.endpoint_types)),
        endpoint,
        settings.model_path,
        settings.model_name,
        worker_type=WorkerType.Decode,
        needs=[[WorkerType.Prefill]],
        kv_cache_block_size=settings.kv_cache_block_size,
        runtime_config=told,
        ignore_weights=True,  # the workers answer; the frontend needs tokenizer and template
    )
    logger.info("%s decodes %s by ELDR", settings.serve, settings.model_name)
    await endpoint.serve_endpoint(decoding.generate, graceful_shutdown=True)
