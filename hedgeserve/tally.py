"""Counters and histograms that cost a request next to nothing, and a scrape little.

Prometheus's own client takes a lock and looks labels up for each observation, some ten microseconds a request in
all; here counting is an addition, and the work is done when somebody scrapes. It takes some twenty microseconds to
write a line, too, with every stream waiting for it; here what never changes of a line is written once. Everything
runs on one event loop, so nothing needs a lock.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence


class Tally:
    """One counter, for one set of label values."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0.0


class TallyCounter:
    """A counter with labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._labels = name, labels
        self._head = _head(name, text, "counter")
        self._tallies: dict[tuple[str, ...], Tally] = {}
        self._lines: list[tuple[str, Tally]] = []
        if not labels:
            self.tally()

    def tally(self, *values: str) -> Tally:
        """What counts for these label values; there, with 0, from the first call on."""
        found = self._tallies.get(values)
        if found is None:
            found = self._tallies[values] = Tally()
            self._lines.append((f"{self._name}{_labels(self._labels, values)} ", found))
        return found

    def entries(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Each set of label values with its count."""
        return [(values, tally.count) for values, tally in self._tallies.items()]

    def render(self) -> str:
        """What has been counted, in Prometheus's text format."""
        return self._head + "".join([f"{before}{tally.count!r}\n" for before, tally in self._lines])


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


class TallyHistogram:
    """A histogram with labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._labels, self._bounds = name, labels, tuple(bounds)
        self._head = _head(name, text, "histogram")
        self._series: dict[tuple[str, ...], Series] = {}
        self._lines: list[tuple[list[str], str, str, Series]] = []
        if not labels:
            self.series()

    def series(self, *values: str) -> Series:
        """Where observations with these label values go; there from the first call on."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = Series(self._bounds)
            buckets = [
                f"{self._name}_bucket{_labels((*self._labels, 'le'), (*values, bound))} "
                for bound in (*(repr(float(bound)) for bound in self._bounds), "+Inf")
            ]
            labels = _labels(self._labels, values)
            self._lines.append((buckets, f"{self._name}_count{labels} ", f"{self._name}_sum{labels} ", found))
        return found

    def render(self) -> str:
        """What has been observed, in Prometheus's text format."""
        out = [self._head]
        for buckets, count, total, series in self._lines:
            running = 0
            for before, more in zip(buckets, series.counts, strict=True):
                running += more
                out.append(f"{before}{running}.0\n")
            out.append(f"{count}{running}.0\n{total}{series.total!r}\n")
        return "".join(out)


def _head(name: str, text: str, kind: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {escaped}\n# TYPE {name} {kind}\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = sorted(zip(names, values, strict=True))
    return "{" + ",".join([f'{name}="{_escaped(str(value))}"' for name, value in pairs]) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
