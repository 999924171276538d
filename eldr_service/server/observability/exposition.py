"""Metrics as text, in slices: with a thousand workers they take many milliseconds."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

SLICE = 64
"""Samples written in one step, less than half a millisecond."""


class _These(Collector):
    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def slices(parts: Iterable[Metric | None], encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
    """The output of `encode` for all metrics, in slices; other tasks may run after each.

    Parameters
    ----------
    parts
        The metrics, with None wherever other tasks may run.
    encode : callable
        One of prometheus_client's.
    """
    end = encode(_These())  # OpenMetrics ends with a line of its own
    for metric in parts:
        if metric is None:
            yield b""
            continue
        for start in range(0, max(len(metric.samples), 1), SLICE):
            part = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            header = encode(_These(part)).removesuffix(end) if start else b""
            part.samples = metric.samples[start : start + SLICE]
            yield encode(_These(part)).removesuffix(end).removeprefix(header)
    yield end
