"""The engines' own TTFT and TPOT, beside those that the client sees."""

import asyncio

from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from eldr_vllm.proxy.engines import EngineFailed, Engines
from eldr_vllm.proxy.fleet import Engine

# vLLM's histograms; their sums and counts are enough for means over any interval.
_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": "time_to_first_token",
    "vllm:request_time_per_output_token_seconds": "time_per_output_token",
}


async def engine_metrics(engines: Engines, fleet: list[Engine]) -> bytes:
    """The sums and counts of every engine that answers, as Prometheus text."""
    urls = sorted({(engine.url, engine.prefill) for engine in fleet})
    pages = await asyncio.gather(*(_page(engines, url) for url, _ in urls))
    families = _Families()
    for (url, prefill), page in zip(urls, pages, strict=True):
        families.add(url, "prefill" if prefill else "decode", page)
    registry = CollectorRegistry()
    registry.register(families)
    return generate_latest(registry)


async def _page(engines: Engines, url: str) -> str:
    try:
        status, body = await engines.get(Engine(url, url), "/metrics", {})
    except EngineFailed:
        return ""  # an engine that is down has no metrics; /health is where it shows
    return body.decode() if status == 200 else ""


class _Families(Collector):
    def __init__(self) -> None:
        self._families = {
            f"{name}_{part}": CounterMetricFamily(
                f"eldr_proxy_engine_{short}_seconds_{part}",
                f"{name}: {part}, as the engine reports it",
                labels=("url", "role"),
            )
            for name, short in _HISTOGRAMS.items()
            for part in ("sum", "count")
        }

    def add(self, url: str, role: str, page: str) -> None:
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(page):
            if family.name in _HISTOGRAMS:
                for sample in family.samples:
                    totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        for name, family in self._families.items():
            if name in totals:
                family.add_metric((url, role), totals[name])

    def collect(self) -> list[CounterMetricFamily]:
        return list(self._families.values())
