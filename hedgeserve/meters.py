"""Makes metrics, keeps the list of them, and renders them; nothing of the Prometheus library leaks out of here."""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from hedgeserve.tally import TallyCounter, TallyHistogram


@dataclass(frozen=True, slots=True)
class Described:
    """A metric in a few words: what ``docs/metrics.md`` must have a heading for."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


_PROCESS = (
    Described("process_cpu_seconds_total", "counter", (), "CPU time of this process, in user and system mode"),
    Described("process_resident_memory_bytes", "gauge", (), "Memory of this process that is in RAM"),
    Described("process_virtual_memory_bytes", "gauge", (), "Address space of this process"),
    Described("process_open_fds", "gauge", (), "Open file descriptors of this process"),
    Described("process_max_fds", "gauge", (), "Most file descriptors that this process may open"),
    Described("process_start_time_seconds", "gauge", (), "When this process began, in seconds since 1970"),
)
"""What every Prometheus client tells of its process, by the names that dashboards know."""


class Meters:
    """A registry of its own for each service: two services in one process do not mix.

    Counters and histograms are tallies, whose cost is an addition (:mod:`hedgeserve.tally`).
    """

    content_type = CONTENT_TYPE_LATEST
    """The ``Content-Type`` of what :meth:`render` returns."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._described: list[Described] = list(_PROCESS)
        self._tallies: list[TallyCounter | TallyHistogram] = []
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Everything, in Prometheus's text format."""
        counted = "".join([tally.render() for tally in self._tallies])
        return counted.encode() + generate_latest(self._registry)

    def describe(self) -> tuple[Described, ...]:
        """Every metric there is."""
        return tuple(self._described)

    def _counter(self, name: str, text: str, *labels: str) -> TallyCounter:
        self._described.append(Described(f"hedgeserve_{name}", "counter", labels, text))
        made = TallyCounter(f"hedgeserve_{name}", text, labels)
        self._tallies.append(made)
        return made

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> TallyHistogram:
        self._described.append(Described(f"hedgeserve_{name}", "histogram", labels, text))
        made = TallyHistogram(f"hedgeserve_{name}", text, labels, bounds)
        self._tallies.append(made)
        return made

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._described.append(Described(f"hedgeserve_{name}", "gauge", labels, text))
        return Gauge(f"hedgeserve_{name}", text, labels, registry=self._registry)
