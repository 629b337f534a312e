"""Spans of requests, of attempts on replicas and of replicas' lives, by OpenTelemetry; off, a look at a None each.

Only this room and :mod:`hedgeserve.spanexport` know OpenTelemetry, loaded (by a thread, in a second) where
spans are wanted. Attributes follow the conventions for HTTP and for generative AI.
"""

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hedgeserve._version import __version__
from hedgeserve.redaction import redact
from hedgeserve.replica import GoneReason, Replica, State

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
# Of a body: the convention's name, and what may stand under it.
_ASKED = {
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "seed": ("gen_ai.request.seed", int),
    "n": ("gen_ai.request.choice.count", int),
}
_USAGE = {
    "gen_ai.usage.input_tokens": re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})'),
    "gen_ai.usage.output_tokens": re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})'),
}
_USAGE_WITHIN_BYTES = 2048
_CLOSING_S = 3.0


class Tracing:
    """Makes the spans of one service."""

    def __init__(self, provider: "TracerProvider", *, model: str, engine: str) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("hedgeserve", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._model = model
        self._engine = engine

    def request(
        self,
        route: str,
        first: Mapping[bytes, bytes],
        request_id: str,
        source: bytes = b"",
        *,
        stream: bool = False,
    ) -> "RequestTrace":
        """A request has come, with these headers (the first value of each) and this body, a JSON object if any."""
        carrier = {
            name: first[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in first
        }
        parent = self._propagator.extract(carrier) if carrier else _nobody()
        operation = _OPERATIONS.get(route, route.rpartition("/")[2])
        known = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self._engine,
            "gen_ai.request.model": self._model,
        }
        span = self._tracer.start_span(
            f"{operation} {self._model}",
            parent,
            self._api.SpanKind.SERVER,
            {
                **known,
                "http.request.method": "POST",
                "http.route": route,
                "gen_ai.request.stream": stream,
                "hedgeserve.request_id": request_id,
            },
        )
        if source and span.is_recording():
            fields: dict[str, Any] = json.loads(source)
            for key, (name, kind) in _ASKED.items():
                value = fields.get(key)
                if isinstance(value, int | kind) and not isinstance(value, bool):
                    span.set_attribute(name, kind(value))
        return RequestTrace(self, span, operation, known)

    def replica(self, replica: Replica, *, launched: bool) -> "ReplicaTrace":
        """A replica's life begins with its launch, or is taken up again."""
        named = {
            "hedgeserve.replica": replica.id,
            "hedgeserve.zone": replica.zone,
            "hedgeserve.market": str(replica.market),
            "hedgeserve.instance_type": replica.offer.instance_type,
            "gen_ai.request.model": self._model,
        }
        return ReplicaTrace(self, named, launched=launched)

    def start(
        self,
        name: str,
        parent: "Span | None",
        *,
        attributes: Mapping[str, Any],
        client: bool = False,
        start_ns: int | None = None,
    ) -> "Span":
        """A span below another one, or one of nobody's."""
        context = _nobody() if parent is None else self._api.set_span_in_context(parent, _nobody())
        kind = self._api.SpanKind.CLIENT if client else self._api.SpanKind.INTERNAL
        return self._tracer.start_span(name, context, kind, attributes, start_time=start_ns)

    def failed(self, span: "Span", kind: str, why: str = "") -> None:
        """What this span is of has failed: ``kind`` is of a closed set, ``why`` for people."""
        span.set_attribute("error.type", kind)
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, redact(why) or None))

    async def aclose(self) -> None:
        """Send what is left, within seconds; whatever the receiver does, nobody waits longer."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has gone on without it
                loop.call_soon_threadsafe(done.set)

        # A thread of its own, which a process's end does not wait for, as it would for one of the loop's.
        threading.Thread(target=close, name="last spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await done.wait()


def _nobody() -> "Context":
    """No parent: contexts of whoever embeds us are none of a request's."""
    from opentelemetry.context import Context

    return Context()


class RequestTrace:
    """The span of one request, and those of its attempts."""

    __slots__ = ("_attempt", "_known", "_operation", "_span", "_tracing", "lines")

    def __init__(self, tracing: Tracing, span: "Span", operation: str, known: dict[str, str]) -> None:
        self._tracing = tracing
        self._span = span
        self._operation = operation
        self._known = known
        self._attempt: Span | None = None
        self.lines = b""
        """The header lines that tell the present attempt's replica whose child it is."""

    def attempt(self, number: int, replica: str, zone: str, market: str, how: str) -> None:
        """A replica is being asked; ``how`` says whether it goes on with what another one began."""
        self._attempt = span = self._tracing.start(
            f"{self._operation} attempt",
            self._span,
            client=True,
            attributes={
                **self._known,
                "hedgeserve.attempt": number,
                "hedgeserve.replica": replica,
                "hedgeserve.zone": zone,
                "hedgeserve.market": market,
                "hedgeserve.failover": how,
            },
        )
        told = span.get_span_context()
        self.lines = b"traceparent: 00-%032x-%016x-%02x\r\n" % (told.trace_id, told.span_id, told.trace_flags)
        if told.trace_state:
            self.lines += b"tracestate: %b\r\n" % told.trace_state.to_header().encode("latin-1", "replace")

    def attempt_failed(self, phase: str, reason: str, tokens: int) -> None:
        """It failed in this phase, after so many tokens of the answer."""
        span, self._attempt = self._attempt, None
        if span is not None:
            span.set_attribute("hedgeserve.outcome", phase)
            span.set_attribute("hedgeserve.tokens_told", tokens)
            if phase != "moved":  # left in time, and of our own will
                self._tracing.failed(span, phase, reason)
            span.end()

    def used(self, body: bytes) -> None:
        """What an answer in one piece says of its tokens."""
        if self._span.is_recording():
            for name, pattern in _USAGE.items():
                if found := pattern.search(body, max(0, len(body) - _USAGE_WITHIN_BYTES)):
                    self._span.set_attribute(name, int(found[1]))

    def end(
        self,
        *,
        status: int,
        outcome: str,
        attempts: int,
        resumed: int,
        tokens: int,
        ttft_s: float | None,
        usage: Mapping[str, Any] | None,
    ) -> None:
        """It is over."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.set_attribute("hedgeserve.outcome", outcome)
            attempt.end()
        span = self._span
        if not span.is_recording():
            return
        span.set_attributes(
            {
                "http.response.status_code": status,
                "gen_ai.response.model": self._known["gen_ai.request.model"],
                "hedgeserve.outcome": outcome,
                "hedgeserve.attempts": attempts,
                "hedgeserve.resumed": resumed,
            }
        )
        if tokens:
            span.set_attribute("gen_ai.usage.output_tokens", tokens)
        for name, key in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if isinstance(count := (usage or {}).get(key), int):
                span.set_attribute(f"gen_ai.usage.{name}_tokens", count)
        if ttft_s is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", ttft_s)
        if outcome in ("upstream_error", "internal_error", "shed"):
            self._tracing.failed(span, outcome)
        span.end()


class ReplicaTrace:
    """The spans of one replica's life: its launch with the phases of the cold start, later its drain."""

    __slots__ = ("_drain", "_launch", "_named", "_tracing")

    def __init__(self, tracing: Tracing, named: dict[str, str], *, launched: bool) -> None:
        self._tracing = tracing
        self._named = named
        self._launch: Span | None = None
        if launched:
            self._launch = tracing.start("replica launch", None, attributes=named)
        self._drain: Span | None = None

    def phase(self, name: str, duration_s: float) -> None:
        """A phase of the cold start has just ended, after this long."""
        if self._launch is not None:
            now_ns = time.time_ns()
            began_ns = now_ns - int(duration_s * 1e9)
            span = self._tracing.start(
                f"bootstrap {name}", self._launch, start_ns=began_ns, attributes=self._named
            )
            span.end(now_ns)

    def reached(self, state: State, why: str, gone: GoneReason | None) -> None:
        """It has come to this state of its life, for this reason."""
        if state is State.READY:
            self._end_launch()
        elif state is State.DRAINING:
            self._drain = self._tracing.start(
                "replica drain", None, attributes={**self._named, "hedgeserve.reason": why}
            )
        elif state in (State.TERMINATING, State.GONE):
            if self._launch is not None and gone in (GoneReason.FAILED, GoneReason.PREEMPTED):
                self._tracing.failed(self._launch, gone, why)
            self._end_launch()
            drain, self._drain = self._drain, None
            if drain is not None:
                drain.end()

    def _end_launch(self) -> None:
        launch, self._launch = self._launch, None
        if launch is not None:
            launch.end()
