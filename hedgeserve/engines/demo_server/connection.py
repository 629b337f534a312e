"""HTTP/1.1 as vLLM's server speaks it: bodies in, answers out, connections kept alive."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from . import VERSION
from .log import log
from .refusal import Refusal, invalid
from .server import Server

IDLE_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 60.0
MAX_BODY_BYTES = 64 * 2**20


class Connection(BaseHTTPRequestHandler):
    """One client's connection, kept alive from request to request; what is asked on it is for a subclass."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = SEND_TIMEOUT_S
    error_message_format = "%(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    server: Server

    def version_string(self) -> str:
        """The Server header."""
        return VERSION

    def handle_one_request(self) -> None:
        """Answer the next request, or close after some idle seconds, as vLLM's server does."""
        super().handle_one_request()
        # Only the wait for the next request's first line is short; a slow reader has SEND_TIMEOUT_S.
        self.connection.settimeout(IDLE_TIMEOUT_S)

    def read_body(self) -> bytes:
        """The whole body; raises :class:`Refusal` where it is too large, ValueError where it is garbled."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts, total = [], 0
            while size := int(self.rfile.readline(100).split(b";")[0].strip() or b"0", 16):
                total = self._bounded(total + size)
                parts.append(self.rfile.read(size))
                self.rfile.readline(100)
            while self.rfile.readline(65536).strip():
                continue
            return b"".join(parts)
        return self.rfile.read(self._bounded(int(self.headers.get("Content-Length") or 0)))

    def _bounded(self, size: int) -> int:
        if not 0 <= size <= MAX_BODY_BYTES:
            self.close_connection = True
            raise Refusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        return size

    def json_body(self, body: bytes) -> dict[str, Any]:
        """The body as a JSON object; raises :class:`Refusal` where it is no such thing."""
        if self.headers.get_content_type() != "application/json":
            message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            raise Refusal(400, message, "Bad Request")
        try:
            value = json.loads(body) if body else None
        except ValueError:
            raise invalid("", "json_invalid", "JSON decode error") from None
        if value is None:
            raise invalid("", "missing", "Field required")
        if not isinstance(value, dict):
            raise invalid("", "model_attributes_type", "Input should be a valid dictionary")
        return value

    def send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        """Give a whole answer of that content type; an empty type is not told."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end(body if self.command != "HEAD" else b"")

    def send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        """Give a whole answer in JSON."""
        self.send(status, json_bytes(value), "application/json", headers)

    def end(self, body: bytes = b"") -> None:
        """Finish the headers and begin the body."""
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """One line for each request, except for those that probes send all the time."""
        # A request line that cannot be read has no path.
        if getattr(self, "path", "") not in ("/health", "/metrics"):
            log(f"{self.client_address[0]} {format % values}")


def json_bytes(value: object) -> bytes:
    """JSON as it goes over the wire: UTF-8, no spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
