"""The engines' own TTFT and TPOT, beside what the client sees."""

import asyncio
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from eldr_vllm.proxy import said
from eldr_vllm.proxy.engines import Engines
from eldr_vllm.proxy.errors import EngineFailed, ProxyError
from eldr_vllm.proxy.fleet import Engine

# vLLM's histograms, which keep their buckets and labels (model_name; engine, the rank).
_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": "eldr_proxy_engine_time_to_first_token_seconds",
    "vllm:request_time_per_output_token_seconds": "eldr_proxy_engine_time_per_output_token_seconds",
}


async def engine_metrics(engines: Engines, fleet: list[Engine]) -> bytes:
    """The histograms of every engine that answers, as text, labelled by url and role."""
    urls = sorted({(engine.url, engine.prefill) for engine in fleet})
    pages = await asyncio.gather(*(_page(engines, url) for url, _ in urls))
    families = _Families()
    for (url, prefill), page in zip(urls, pages, strict=True):
        families.add(page, {"url": url, "role": "prefill" if prefill else "decode"})
    registry = CollectorRegistry()
    registry.register(families)
    return generate_latest(registry)


async def _page(engines: Engines, url: str) -> list[Metric]:
    try:
        return said.metrics(await engines.page(Engine(url, url), "/metrics", {}))
    except (EngineFailed, ProxyError):
        return []  # an engine that is down shows in /health


class _Families(Collector):
    def __init__(self) -> None:
        self._families = {
            theirs: Metric(ours, f"{theirs}, as the engine reports it", "histogram")
            for theirs, ours in _HISTOGRAMS.items()
        }

    def add(self, page: list[Metric], labels: dict[str, str]) -> None:
        for family in page:
            if family.name not in self._families:
                continue
            ours = self._families[family.name]
            for sample in family.samples:
                name = ours.name + sample.name.removeprefix(family.name)
                ours.add_sample(name, {**sample.labels, **labels}, sample.value)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()
