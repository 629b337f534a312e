"""What HedgeServe counts and measures, served as Prometheus text; every name is explained in docs/metrics.md.

The rooms call methods in their own words; nothing of the Prometheus library leaks out of here. Label values come
from closed sets or from the configured pools, never from what clients send.
"""

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from hedgeserve._version import __version__
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)
from hedgeserve.policy.plan import Action, Drain, Launch, Rule, Terminate
from hedgeserve.replica import Market, Replica, State, ZoneId
from hedgeserve.tally import Series, Tally, TallyCounter, TallyHistogram


class Outcome(StrEnum):
    """How a request ended, as its client saw it."""

    OK = "ok"
    CLIENT_ERROR = "client_error"  # a 4xx, ours or the engine's
    UPSTREAM_ERROR = "upstream_error"  # no replica could answer it, or its stream was cut
    SHED = "shed"  # turned away: the line is full, the wait was too long, or the service is stopping
    CANCELLED = "cancelled"  # the client went away
    INTERNAL_ERROR = "internal_error"  # a mistake of ours


class FailurePhase(StrEnum):
    """Where an attempt on a replica failed."""

    CONNECT = "connect"  # no connection
    FIRST_BYTE = "first_byte"  # a connection, but no answer in time, or the connection was lost before one
    STATUS = "status"  # it answered with a status that is its fault
    BODY = "body"  # its answer was cut in the middle
    STALL = "stall"  # it fell silent in the middle
    ABORT = "abort"  # it said itself that the answer is no real one
    VANISHED = "vanished"  # the replica is gone
    MOVED = "moved"  # the stream left in time, before the replica was taken away


# Found once: a member of an enum is looked for anew each time that it is named.
_OK = Outcome.OK
_FAST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_LONG_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 3600.0)
_LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CLOUD_ERRORS = (CloudError, CapacityError, QuotaError, AuthError, ThrottledError, UnsupportedError)
_LAUNCH_RESULTS = ("ok", *(error.kind for error in _CLOUD_ERRORS))
_ACTION_KINDS: dict[type[Action], str] = {Launch: "launch", Drain: "drain", Terminate: "terminate"}


@dataclass(frozen=True, slots=True)
class Described:
    """A metric in a few words: what ``docs/metrics.md`` must have a heading for."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """All metrics of one service, in a registry of its own: two services in one process do not mix."""

    content_type = CONTENT_TYPE_LATEST
    """The ``Content-Type`` of what :meth:`render` returns."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._described: list[Described] = []
        self._request_metrics()
        self._fleet_metrics()
        self._answered: dict[str, Tally] = {}
        self._durations_s: dict[str, Series] = {}
        self._zones_seen: set[tuple[Market, ZoneId]] = set()
        for phase in FailurePhase:
            self._upstream_failures.labels(phase)
        for kind in _ACTION_KINDS.values():
            for rule in Rule:
                self._decisions.labels(kind, rule)
        for market in (Market.SPOT, Market.ON_DEMAND):
            self._spend.labels(market)
        self._gauge("build_info", "Version of HedgeServe and of Python; always 1", "version", "python").labels(
            __version__, platform.python_version()
        ).set(1)

    def _request_metrics(self) -> None:
        self._requests = self._tally("requests_total", "Requests that have ended", "route", "outcome", "code")
        self._duration_s = self._spread(
            "request_duration_seconds", "From a request's head to the end of its answer", _FAST_S, "route"
        )
        self._first_token_s = self._spread(
            "time_to_first_token_seconds",
            "From a streamed request's head to the first byte of its answer",
            _FAST_S,
        ).series()
        self._inflight = self._gauge("inflight_requests", "Requests that replicas are answering")
        self._queue_depth = self._gauge("queue_depth", "Requests that wait for a replica")
        self._queue_wait_s = self._spread(
            "queue_wait_seconds",
            "How long requests waited for a replica, those that did not have to included",
            _FAST_S,
        ).series()
        self._upstream_failures = self._counter(
            "upstream_failures_total", "Attempts on replicas that failed", "phase"
        )
        self._attempts = self._spread(
            "request_attempts", "Replicas that were tried for one request", (1, 2, 3, 4, 6, 10, 20)
        ).series()
        self._resumptions = self._counter(
            "resumptions_total", "Answers that another replica took up in their middle", "way", "result"
        )
        self._moved = self._counter("streams_moved_total", "Streams that left a replica before it was taken away")
        self._replayed = self._counter(
            "replayed_tokens_total",
            "Tokens that were generated twice, for answers that were taken up by another replica",
        )
        self._tokens = self._tally(
            "answer_tokens_total", "Tokens of answers that clients were sent, as far as counted"
        ).tally()
        self._kept_bytes = self._gauge(
            "failover_kept_bytes", "Memory for what running streams need to be continued"
        )
        self._prefix_bytes = self._gauge(
            "prefix_memory_bytes", "Memory for the prompts' beginnings that are remembered"
        )
        self._connections = self._gauge("client_connections", "Connections of clients")

    def _fleet_metrics(self) -> None:
        self._replicas = self._gauge("replicas", "Replicas by state", "state", "market", "zone")
        self._target = self._gauge("replica_target", "Replicas that the load needs")
        self._launches = self._counter("launches_total", "VMs asked for", "zone", "market", "result")
        self._preemptions = self._counter("preemptions_total", "VMs that the cloud took back", "zone", "notice")
        self._decisions = self._counter("decisions_total", "Decisions of the policy", "kind", "rule")
        self._boot_s = self._histogram("boot_duration_seconds", "From launch to ready, by phase", _LONG_S, "phase")
        self._spend = self._counter("spend_dollars_total", "US dollars spent on VMs", "market")
        self._loop_lag_s = self._histogram("loop_lag_seconds", "How late the event loop runs what is due", _LAG_S)

    # Requests: for the balancer.

    def expect_routes(self, routes: Iterable[str]) -> None:
        """Show these from the start, with 0, so that the rate of a first request can be seen."""
        for route in routes:
            self._requests.tally(route, Outcome.OK, "200")
            self._duration_s.series(route)

    def watch_load(self, *, inflight: Callable[[], int], queued: Callable[[], int]) -> None:
        """Ask these two at each scrape; counting itself costs requests nothing."""
        self._inflight.set_function(inflight)
        self._queue_depth.set_function(queued)

    def request_ended(self, route: str, outcome: Outcome, code: int) -> None:
        """A request has ended with this status (499: the client went away before there was one)."""
        if outcome is _OK and code == 200:  # nearly all of them: no labels are looked up
            tally = self._answered.get(route)
            if tally is None:
                tally = self._answered[route] = self._requests.tally(route, outcome, "200")
            tally.count += 1
        else:
            self._requests.tally(route, outcome, str(code)).count += 1

    def request_took(self, route: str, duration_s: float, attempts: int, ttft_s: float | None) -> None:
        """A request that was meant for a replica has ended; ``ttft_s`` where it was streamed."""
        series = self._durations_s.get(route)
        if series is None:
            series = self._durations_s[route] = self._duration_s.series(route)
        series.observe(duration_s)
        if attempts:
            self._attempts.observe(attempts)
        if ttft_s is not None:
            self._first_token_s.observe(ttft_s)

    def queue_waited(self, wait_s: float) -> None:
        """A request has been given to a replica after this long."""
        self._queue_wait_s.observe(wait_s)

    def upstream_failed(self, phase: FailurePhase) -> None:
        """One attempt on a replica has failed."""
        self._upstream_failures.labels(phase).inc()

    def resumed(self, way: str, result: str) -> None:
        """An answer was taken up (or not) by another replica, in this way of :mod:`failover`."""
        self._resumptions.labels(way, result).inc()

    def stream_moved(self) -> None:
        """A stream left its replica before it was taken away."""
        self._moved.inc()

    def replayed(self, tokens: int) -> None:
        """So many tokens had to be generated a second time."""
        self._replayed.inc(tokens)

    def answered_tokens(self, tokens: int) -> None:
        """An answer has ended after so many tokens."""
        self._tokens.count += tokens

    def watch_memory(
        self, *, kept: Callable[[], int], prefixes: Callable[[], int], connections: Callable[[], int]
    ) -> None:
        """Ask these at each scrape."""
        self._kept_bytes.set_function(kept)
        self._prefix_bytes.set_function(prefixes)
        self._connections.set_function(connections)

    # Machines: for the fleet and the tick.

    def set_replicas(self, replicas: Iterable[Replica]) -> None:
        """All replicas as they are now; a place once seen is shown with 0 when it has none any more."""
        counts: dict[tuple[State, Market, ZoneId], int] = {}
        for replica in replicas:
            self._zones_seen.add((replica.market, replica.zone))
            key = (replica.state, replica.market, replica.zone)
            counts[key] = counts.get(key, 0) + 1
        for market, zone in self._zones_seen:
            for state in State:
                if state is not State.GONE:
                    self._replicas.labels(state, market, zone).set(counts.get((state, market, zone), 0))

    def set_target(self, target: int) -> None:
        """The number of replicas that the load needs now."""
        self._target.set(target)

    def launched(self, zone: ZoneId, market: Market, error: CloudError | None = None) -> None:
        """A cloud was asked for a VM and gave it, or refused with ``error``."""
        for result in _LAUNCH_RESULTS:  # all at once, so that the rate of a first refusal can be seen
            self._launches.labels(zone, market, result)
        self._launches.labels(zone, market, error.kind if error else "ok").inc()

    def preempted(self, zone: ZoneId, *, noticed: bool) -> None:
        """A cloud took a VM back, after a notice or without."""
        for notice in ("notice", "none"):
            self._preemptions.labels(zone, notice)
        self._preemptions.labels(zone, "notice" if noticed else "none").inc()

    def decided(self, action: Action) -> None:
        """A decision of the policy is being carried out."""
        self._decisions.labels(_ACTION_KINDS[type(action)], action.rule).inc()

    def booted(self, phase: str, duration_s: float) -> None:
        """A phase of a replica's start took this long; ``phase`` is one of bootstrap's own few names."""
        self._boot_s.labels(phase).observe(duration_s)

    def spent(self, market: Market, usd: float) -> None:
        """This much more was spent."""
        self._spend.labels(market).inc(usd)

    def loop_lagged(self, lag_s: float) -> None:
        """Something due was run this much too late."""
        self._loop_lag_s.observe(lag_s)

    # Reading.

    def render(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self._registry)

    def describe(self) -> tuple[Described, ...]:
        """Every metric there is."""
        return tuple(self._described)

    # Making.

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._described.append(Described(f"hedgeserve_{name}", "counter", labels, text))
        return Counter(f"hedgeserve_{name}", text, labels, registry=self._registry)

    def _tally(self, name: str, text: str, *labels: str) -> TallyCounter:
        self._described.append(Described(f"hedgeserve_{name}", "counter", labels, text))
        made = TallyCounter(f"hedgeserve_{name}", text, labels)
        self._registry.register(made)
        return made

    def _spread(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> TallyHistogram:
        self._described.append(Described(f"hedgeserve_{name}", "histogram", labels, text))
        made = TallyHistogram(f"hedgeserve_{name}", text, labels, bounds)
        self._registry.register(made)
        return made

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._described.append(Described(f"hedgeserve_{name}", "gauge", labels, text))
        return Gauge(f"hedgeserve_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self._described.append(Described(f"hedgeserve_{name}", "histogram", labels, text))
        return Histogram(f"hedgeserve_{name}", text, labels, registry=self._registry, buckets=buckets)
