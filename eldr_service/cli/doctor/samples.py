"""Metrics as a scrape shows them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

Labels = frozenset[tuple[str, str]]


class Samples:
    """Series and their values, by name and labels."""

    def __init__(self) -> None:
        self._found: dict[str, dict[Labels, float]] = {}

    @classmethod
    def read(cls, text: str) -> Self:
        """Those of a page in Prometheus' text format; ValueError where it is none."""
        from prometheus_client.parser import text_string_to_metric_families

        read = cls()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                read._add(sample.name, frozenset(sample.labels.items()), sample.value)
        return read

    @classmethod
    def sum(cls, several: Iterable["Samples"]) -> Self:
        """Of several replicas."""
        summed = cls()
        for each in several:
            for name, series in each._found.items():
                for labels, value in series.items():
                    summed._add(name, labels, value)
        return summed

    def since(self, before: "Samples") -> "Samples":
        """Counters by how much they have risen; one that has begun anew counts from 0."""
        risen = Samples()
        for name, series in self._found.items():
            then = before._found.get(name, {}) if name.endswith("_total") else {}
            for labels, value in series.items():
                was = then.get(labels, 0.0)
                risen._add(name, labels, value - was if was <= value else value)
        return risen

    def of(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """The series of a metric that have these labels, and their values."""
        for series, value in self._found.get(name, {}).items():
            if labels.items() <= series:
                yield dict(series), value

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Sums by one label, of those above 0."""
        found: dict[str, float] = {}
        for series, value in self.of(name, **labels):
            key = series.get(label, "")
            found[key] = found.get(key, 0.0) + value
        return {key: value for key, value in found.items() if value > 0}

    def total(self, name: str, **labels: str) -> float:
        """The sum."""
        return sum(value for _, value in self.of(name, **labels))

    def version(self, name: str) -> str:
        """What an info metric says; empty where there is none."""
        return next((series.get("version", "") for series, _ in self.of(name)), "")

    def _add(self, name: str, labels: Labels, value: float) -> None:
        series = self._found.setdefault(name, {})
        series[labels] = series.get(labels, 0.0) + value
