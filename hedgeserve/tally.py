"""Counters and histograms that cost a request next to nothing, for what is counted on every request.

Prometheus's own client takes a lock and looks labels up for each observation, some ten microseconds a request in
all; here counting is an addition, and the work is done when somebody scrapes. Everything runs on one event loop,
so nothing needs a lock.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """One counter, for one set of label values."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0.0


class TallyCounter(Collector):
    """A counter with labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._tallies: dict[tuple[str, ...], Tally] = {}

    def tally(self, *values: str) -> Tally:
        """What counts for these label values; there, with 0, from the first call on."""
        found = self._tallies.get(values)
        if found is None:
            found = self._tallies[values] = Tally()
        return found

    def entries(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Each set of label values with its count."""
        return [(values, tally.count) for values, tally in self._tallies.items()]

    def collect(self) -> Iterable[CounterMetricFamily]:
        """What has been counted, for a scrape."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, tally in tuple(self._tallies.items()):
            family.add_metric(values, tally.count)
        yield family


class Series:
    """One histogram's observations for one set of label values."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class TallyHistogram(Collector):
    """A histogram with labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, tuple(bounds)
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self.series()

    def series(self, *values: str) -> Series:
        """Where observations with these label values go; there from the first call on."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = Series(self._bounds)
        return found

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """What has been observed, for a scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in tuple(self._series.items()):
            running, buckets = 0, []
            for bound, count in zip((*self._bounds, float("inf")), series.counts, strict=True):
                running += count
                buckets.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(running)))
            family.add_metric(values, buckets, series.total)
        yield family
