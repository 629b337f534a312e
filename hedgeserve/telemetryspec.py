"""What a model.toml may say of traces."""

from collections.abc import Iterator
from typing import Literal

from hedgeserve.spectable import Conflict, Share, Table


class TelemetrySpec(Table):
    """Traces by OpenTelemetry (`pip install hedgeserve[otel]`); the standard `OTEL_*` variables are honoured."""

    traces: Literal["auto", "on", "off"] = "auto"
    """Whether spans are sent: `auto` does where `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set and OpenTelemetry is installed."""
    endpoint: str = ""
    """URL of an OTLP receiver (HTTP), such as `http://127.0.0.1:4318`; empty: as the variables say, else that one."""
    sample: Share = 1.0
    """Share of traces that is kept, of requests whose client has not decided it; `OTEL_TRACES_SAMPLER` stands above it."""

    def conflicts(self) -> Iterator[Conflict]:
        """An address that is none."""
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            yield Conflict(
                ("endpoint",), f'"{self.endpoint}" is no URL', 'write one, such as "http://127.0.0.1:4318"'
            )
