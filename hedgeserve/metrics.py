"""What HedgeServe counts and measures, served as Prometheus text; every name is explained in docs/metrics.md.

The rooms call methods in their own words; nothing of the Prometheus library leaks out of here. Label values come
from closed sets or from the configured pools, never from what clients send.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from hedgeserve.fates import Fates
from hedgeserve.fleetmetrics import FleetMetrics
from hedgeserve.meters import Described
from hedgeserve.tally import Series, Tally

__all__ = ["Described", "FailurePhase", "Metrics", "Outcome", "SoFar"]


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
_FAILURES = frozenset({Outcome.UPSTREAM_ERROR, Outcome.SHED, Outcome.INTERNAL_ERROR})
_FAST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_GAP_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_ATTEMPTS = (1, 2, 3, 4, 6, 10, 20)
_WAYS = ("continue", "replay")
_RESULTS = ("ok", "failed", "gone")
_LIMITS = ("requests", "tokens", "concurrent")


@dataclass(frozen=True, slots=True)
class SoFar:
    """What has been counted of requests since the start; ``first_tokens`` by bucket, the last one unbounded."""

    requests: int
    failed: int
    tokens: int
    first_tokens: tuple[int, ...]


class Metrics(FleetMetrics):
    """All metrics of one service: those of requests here, those of the fleet and the process below."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = self._counter("requests_total", "Requests that have ended", "route", "outcome", "code")
        self._duration_s = self._histogram(
            "request_duration_seconds", "From a request's head to the end of its answer", _FAST_S, "route"
        )
        self._first_token_s = self._histogram(
            "time_to_first_token_seconds",
            "From a streamed request's head to the first byte of its answer",
            _FAST_S,
        ).series()
        self._token_s = self._histogram(
            "time_per_output_token_seconds",
            "Of each whole stream, the mean time from one token to the next after the first",
            _GAP_S,
        ).series()
        self._inflight = self._gauge("inflight_requests", "Requests that replicas are answering")
        self._queue_depth = self._gauge("queue_depth", "Requests that wait for a replica")
        self._queue_limit = self._gauge("queue_limit", "Most requests that may wait for a replica")
        self._queue_wait_s = self._histogram(
            "queue_wait_seconds",
            "How long requests waited for a replica, those that did not have to included",
            _FAST_S,
        ).series()
        self._errors = self._counter("errors_total", "Requests answered with an error of HedgeServe's own", "code")
        self._limit_hits = self._counter(
            "key_limit_hits_total", "Requests turned away because their API key had used up a limit", "limit"
        )
        self._upstream_failures = self._counter(
            "upstream_failures_total", "Attempts on replicas that failed", "phase"
        )
        self._attempts = self._histogram(
            "request_attempts", "Replicas that were tried for one request", _ATTEMPTS
        ).series()
        self._resumptions = self._counter(
            "resumptions_total", "Answers that another replica took up in their middle", "way", "result"
        )
        self._gap_s = self._histogram(
            "resumption_gap_seconds", "From the loss of a stream's replica to its next byte from another", _FAST_S
        ).series()
        self._lost = self._counter(
            "streams_lost_total", "Answers that had begun and ended with an error for their client"
        ).tally()
        self._moved = self._counter(
            "streams_moved_total", "Streams that left a replica before it was taken away"
        ).tally()
        self._replayed = self._counter(
            "replayed_tokens_total",
            "Tokens that were generated twice, for answers that were taken up by another replica",
        ).tally()
        self._tokens = self._counter(
            "answer_tokens_total", "Tokens of answers that clients were sent, as far as counted"
        ).tally()
        self._prompt_tokens = self._counter(
            "prompt_tokens_total", "Tokens of the prompts of requests that replicas answered, as estimated"
        ).tally()
        self._silences = self._counter(
            "replica_silences_total", "Replicas given up because they fell silent"
        ).tally()
        self._shunned = self._gauge("replicas_shunned", "Replicas that requests avoid after failures or silence")
        self._kept_bytes = self._gauge(
            "failover_kept_bytes", "Memory for what running streams need to be continued"
        )
        self._kept_limit_bytes = self._gauge(
            "failover_kept_limit_bytes", "Most memory for what running streams need to be continued"
        )
        self._prefix_bytes = self._gauge(
            "prefix_memory_bytes", "Memory for the prompts' beginnings that are remembered"
        )
        self._prefix_limit_bytes = self._gauge(
            "prefix_memory_limit_bytes", "Most memory for the prompts' beginnings that are remembered"
        )
        self._limited_keys = self._gauge("limited_keys", "API keys whose limits are being kept account of")
        self._connections = self._gauge("client_connections", "Connections of clients")
        self._certificate_ends_s = self._gauge(
            "tls_certificate_expiry_timestamp_seconds", "When the certificate of an address expires", "address"
        )
        self._connections_limit = self._gauge("client_connections_limit", "Most connections of clients")
        self._answered: dict[str, Tally] = {}
        self._durations_s: dict[str, Series] = {}
        for phase in FailurePhase:
            self._upstream_failures.tally(phase)
        for way in _WAYS:
            for result in _RESULTS:
                self._resumptions.tally(way, result)
        for limit in _LIMITS:
            self._limit_hits.tally(limit)

    def expect_routes(self, routes: Iterable[str]) -> None:
        """Show these from the start, with 0, so that the rate of a first request can be seen."""
        for route in routes:
            self._requests.tally(route, Outcome.OK, "200")
            self._duration_s.series(route)

    def expect_errors(self, codes: Iterable[str]) -> None:
        """Requests may be answered with these errors of ours."""
        for code in codes:
            self._errors.tally(code)

    def bounded(self, *, queue: int, connections: int, kept_bytes: int, prefix_bytes: int) -> None:
        """How much of each there may be: what is measured below is to be seen beside its bound."""
        self._queue_limit.set(queue)
        self._connections_limit.set(connections)
        self._kept_limit_bytes.set(kept_bytes)
        self._prefix_limit_bytes.set(prefix_bytes)

    def watch_load(
        self, *, inflight: Callable[[], int], queued: Callable[[], int], shunned: Callable[[], int]
    ) -> None:
        """Ask these at each scrape; counting itself costs requests nothing."""
        self._inflight.set_function(inflight)
        self._queue_depth.set_function(queued)
        self._shunned.set_function(shunned)

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
        self._upstream_failures.tally(phase).count += 1

    def resumed(self, way: str, result: str) -> None:
        """An answer was taken up (or not) by another replica, in this way of :mod:`failover`."""
        self._resumptions.tally(way, result).count += 1

    def stream_moved(self) -> None:
        """A stream left its replica before it was taken away."""
        self._moved.count += 1

    def replayed(self, tokens: int) -> None:
        """So many tokens had to be generated a second time."""
        self._replayed.count += tokens

    def taken_up(self, gap_s: float) -> None:
        """A stream goes on, so long after its replica was lost."""
        self._gap_s.observe(gap_s)

    def stream_lost(self) -> None:
        """An answer that had begun ended with an error."""
        self._lost.count += 1

    def errored(self, code: str) -> None:
        """A request was answered with this error of ours."""
        self._errors.tally(code).count += 1

    def limited(self, limit: str) -> None:
        """A request was turned away for this limit of its API key."""
        self._limit_hits.tally(limit).count += 1

    def fell_silent(self) -> None:
        """A replica was given up because nothing came from it any more."""
        self._silences.count += 1

    def prompted(self, tokens: int) -> None:
        """A request whose prompt was about so many tokens long has been to a replica, and has ended."""
        self._prompt_tokens.count += tokens

    def answered_tokens(self, tokens: int, streamed_s: float | None) -> None:
        """An answer has ended after so many tokens; ``streamed_s`` after the first of a whole stream."""
        self._tokens.count += tokens
        if streamed_s is not None and tokens > 1:
            self._token_s.observe(streamed_s / (tokens - 1))

    def watch_memory(
        self,
        *,
        kept: Callable[[], int],
        prefixes: Callable[[], int],
        keys: Callable[[], int],
        connections: Callable[[], int],
    ) -> None:
        """Ask these at each scrape."""
        self._limited_keys.set_function(keys)
        self._kept_bytes.set_function(kept)
        self._prefix_bytes.set_function(prefixes)
        self._connections.set_function(connections)

    def certificate_ends(self, address: str, at_s: float) -> None:
        """The certificate of ``service`` or ``admin`` is good until then (seconds since 1970)."""
        self._certificate_ends_s.labels(address).set(at_s)

    # Reading, for the dashboard's history: the price of some additions.

    def so_far(self) -> SoFar:
        """What has been counted of requests."""
        requests = failed = 0.0
        for (_, outcome, _), count in self._requests.entries():
            requests += count
            if outcome in _FAILURES:
                failed += count
        first_tokens = tuple(self._first_token_s.counts)
        return SoFar(int(requests), int(failed), int(self._tokens.count), first_tokens)

    @property
    def first_token_bounds_s(self) -> tuple[float, ...]:
        """The upper bounds of the buckets in :attr:`SoFar.first_tokens`, but for the last one's."""
        return _FAST_S

    def fates(self) -> Fates:
        """What has become of requests so far."""
        ended: dict[str, int] = {}
        for (_, outcome, _), count in self._requests.entries():
            ended[outcome] = ended.get(outcome, 0) + int(count)
        resumed = {way: int(count) for (way, result), count in self._resumptions.entries() if result == "ok"}
        failed = {phase: int(count) for (phase,), count in self._upstream_failures.entries()}
        early = (FailurePhase.CONNECT, FailurePhase.FIRST_BYTE, FailurePhase.STATUS)
        return Fates(
            ended=sum(ended.values()),
            lost=ended.get(Outcome.UPSTREAM_ERROR, 0) + ended.get(Outcome.INTERNAL_ERROR, 0),
            turned_away=ended.get(Outcome.SHED, 0),
            retried=sum(failed.get(phase, 0) for phase in early),
            continued=resumed.get("continue", 0),
            replayed=resumed.get("replay", 0),
            moved=failed.get(FailurePhase.MOVED, 0),
        )
