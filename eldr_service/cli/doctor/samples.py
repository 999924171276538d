"""Metrics as a scrape shows them."""

from collections.abc import Iterator, Mapping


class Samples:
    """The samples of one page, or the sum over those of several replicas.

    Parameters
    ----------
    texts : str
        Pages in Prometheus' text format.

    Raises
    ------
    ValueError
        A page is none.
    """

    def __init__(self, *texts: str) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        self._found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for text in texts:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    series = self._found.setdefault(sample.name, {})
                    labels = frozenset(sample.labels.items())
                    series[labels] = series.get(labels, 0.0) + sample.value

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def of(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """The series of a metric with these labels, and their values."""
        wanted = labels.items()
        for series, value in self._found.get(name, {}).items():
            if wanted <= series:
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

    def least(self, name: str) -> float | None:
        """The lowest value; None where there is none."""
        return min((value for _, value in self.of(name)), default=None)

    def since(self, before: "Samples") -> "Samples":
        """Counters by how much they have risen; a series that has begun anew counts from 0."""
        risen = Samples()
        for name, series in self._found.items():
            counts = name.endswith("_total")
            then = before._found.get(name, {}) if counts else {}
            risen._found[name] = {
                labels: value - was if (was := then.get(labels, 0.0)) <= value else value
                for labels, value in series.items()
            }
        return risen
