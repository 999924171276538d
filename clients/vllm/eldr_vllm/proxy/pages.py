"""Pages that any engine can give: one is asked, and the next if it fails."""

import asyncio
from collections import defaultdict
from typing import Any

from eldr_vllm.proxy import said
from eldr_vllm.proxy.engines import Engines
from eldr_vllm.proxy.errors import EngineFailed, no_worker
from eldr_vllm.proxy.fleet import Engine

# They generate nothing.
PASSED = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")


async def first(
    engines: Engines,
    asked: list[Engine],
    path: str,
    headers: dict[str, str],
    body: bytes | None = None,
) -> bytes:
    """The page of the first engine that gives one.

    Raises
    ------
    ProxyError
        An engine refuses the request, or none answers.
    """
    for engine in asked:
        try:
            return said.page(await engines.page(engine, path, headers, body))
        except EngineFailed:
            continue
    raise no_worker("no engine answers")


async def models(
    engines: Engines, asked: list[Engine], headers: dict[str, str]
) -> list[dict[str, Any]]:
    """The models that the engines serve, each once.

    Engines of one registered model are interchangeable; those of the configuration may each have
    their own models.

    Raises
    ------
    ProxyError
        No engine says what it serves; or one's refusal, if all that answer refuse.
    """
    alike = defaultdict(list)
    for engine in asked:
        alike[engine.model or engine.url].append(engine)
    pages = await asyncio.gather(
        *(_models(engines, group, headers) for group in alike.values()), return_exceptions=True
    )
    refusals = [page for page in pages if isinstance(page, BaseException)]
    found = {each["id"]: each for page in pages if isinstance(page, list) for each in page}
    if not found:
        raise next(iter(refusals), None) or no_worker("no engine is known")
    return list(found.values())


async def _models(
    engines: Engines, asked: list[Engine], headers: dict[str, str]
) -> list[dict[str, Any]]:
    for engine in asked:
        try:
            return said.models(await engines.page(engine, "/v1/models", headers))
        except EngineFailed:
            continue
    raise no_worker("no engine answers")
