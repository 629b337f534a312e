"""Where spans go: by OTLP over HTTP, in batches, from a thread of OpenTelemetry's own.

The queue is bounded, and what does not fit, or is taken by nobody, is dropped.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from hedgeserve._version import __version__
from hedgeserve.redaction import redact
from hedgeserve.spec import Spec
from hedgeserve.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_log = structlog.get_logger("hedgeserve.tracing")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def wants_traces(spec: Spec, environ: Mapping[str, str]) -> bool:
    """Whether spans are to be sent, as model.toml and the standard variables say."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    if spec.telemetry.traces == "auto":
        return any(environ.get(name) for name in _ENDPOINTS)
    return spec.telemetry.traces == "on"


def can_trace() -> bool:
    """Whether OpenTelemetry and its exporter are installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None and (
            find_spec("opentelemetry.sdk") is not None
        )
    except ModuleNotFoundError:
        return False


async def start_tracing(spec: Spec, environ: Mapping[str, str]) -> Tracing | None:
    """The service's tracing; None where spans are not wanted, or (said in the log) cannot be made."""
    if not wants_traces(spec, environ):
        return None
    if not can_trace():
        _log.warning("spans are wanted, but OpenTelemetry is missing: pip install 'hedgeserve[otel]'")
        return None
    provider = await asyncio.to_thread(_provide, spec, environ)
    return Tracing(provider, model=spec.model.id, engine=str(spec.model.engine))


def _provide(spec: Spec, environ: Mapping[str, str]) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    # What they say of a receiver that is down, again and again, is said once by _Steady.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    base = spec.telemetry.endpoint.rstrip("/")
    endpoint = None if not base or any(environ.get(name) for name in _ENDPOINTS) else f"{base}/v1/traces"
    resource = Resource.create(
        {
            "service.name": environ.get("OTEL_SERVICE_NAME") or spec.service.name,
            "service.namespace": "hedgeserve",
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
    )
    sampler = None if environ.get("OTEL_TRACES_SAMPLER") else ParentBasedTraceIdRatio(spec.telemetry.sample)
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(steady(OTLPSpanExporter(endpoint))))
    return provider


def steady(exporter: "SpanExporter") -> "SpanExporter":
    """An exporter whose trouble is told once when it begins and once when it ends, and disturbs nobody."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Steady(SpanExporter):
        """Sends with another, in the thread of the batches."""

        troubled = False

        def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
            """Send; what fails is dropped."""
            why = "it did not take them"
            try:
                result = exporter.export(spans)
            except Exception as error:  # whatever a receiver does to it: requests are of more use than their spans
                result, why = SpanExportResult.FAILURE, redact(repr(error))
            failed = result is not SpanExportResult.SUCCESS
            if failed != self.troubled:
                self.troubled = failed
                if failed:
                    _log.warning("spans cannot be sent to their receiver and are dropped", reason=why)
                else:
                    _log.info("spans are taken by their receiver again")
            return result

        def shutdown(self) -> None:
            """The last of it."""
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            """Send what there is."""
            return exporter.force_flush(timeout_millis)

    return Steady()
