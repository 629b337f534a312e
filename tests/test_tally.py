"""What is counted by hand comes out as Prometheus's own client would say it."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from hedgeserve.tally import TallyCounter, TallyHistogram

BOUNDS = (0.005, 0.1, 1.0, 10.0, 600.0)


def without_created(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if b"_created" not in line]


@given(st.lists(st.floats(0, 1000)))
def test_histograms_say_what_prometheus_would(values: list[float]) -> None:
    """Buckets, sum and count, to the letter."""
    theirs = CollectorRegistry()
    tally = TallyHistogram("took_seconds", "How long.", ("route",), BOUNDS)
    histogram = Histogram("took_seconds", "How long.", ("route",), registry=theirs, buckets=BOUNDS)
    histogram.labels("/a")
    tally.series("/a")
    for value in values:
        tally.series("/a").observe(value)
        histogram.labels("/a").observe(value)
    assert tally.render().encode().splitlines() == without_created(generate_latest(theirs))


@given(st.lists(st.sampled_from(["200", "404", "503"])))
def test_counters_say_what_prometheus_would(codes: list[str]) -> None:
    """Each set of label values by itself."""
    theirs = CollectorRegistry()
    tally = TallyCounter("requests_total", "Requests.", ("code",))
    counter = Counter("requests_total", "Requests.", ("code",), registry=theirs)
    for code in codes:
        tally.tally(code).count += 1
        counter.labels(code).inc()
    assert tally.render().encode().splitlines() == without_created(generate_latest(theirs))
