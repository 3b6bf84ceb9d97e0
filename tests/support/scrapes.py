"""Scrapes of metrics, parsed by ``prometheus_client``."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of a text, by name and labels.

    :ivar growing: those of counters and histograms.
    """

    samples: dict[tuple[str, Labels], float]
    growing: dict[tuple[str, Labels], float]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name that have these labels."""
        found = [
            value
            for (each, has), value in self.samples.items()
            if each == name and labels.items() <= dict(has).items()
        ]
        assert found, name
        return sum(found)

    def falls_behind(self, earlier: Scrape) -> dict[tuple[str, Labels], float]:
        """Return what has become less since another scrape, or is gone."""
        return {
            key: value
            for key, value in earlier.growing.items()
            if self.growing.get(key, -1.0) < value
        }


def parse(text: str) -> Scrape:
    """Parse a text; no two samples may have the same name and labels."""
    samples: dict[tuple[str, Labels], float] = {}
    growing: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
            if family.type in ("counter", "histogram"):
                growing[key] = sample.value
    return Scrape(samples, growing)
