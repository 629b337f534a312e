"""Everything that HedgeServe answers in its own name: one list of error codes, one shape, OpenAI's."""

import json
from enum import Enum

from hedgeserve.errors import HedgeServeError
from hedgeserve.proxy.verdict import Dialect


class Code(Enum):
    """Each error that is ours: its code, HTTP status and type; ``docs/http-api.md`` explains each."""

    INVALID_JSON = ("invalid_json", 400, "invalid_request_error")
    INVALID_VALUE = ("invalid_value", 400, "invalid_request_error")
    BAD_REQUEST = ("bad_request", 400, "invalid_request_error")
    UPGRADE_NOT_SUPPORTED = ("upgrade_not_supported", 400, "invalid_request_error")
    INVALID_API_KEY = ("invalid_api_key", 401, "authentication_error")
    EXPIRED_API_KEY = ("expired_api_key", 401, "authentication_error")
    METRICS_FORBIDDEN = ("metrics_forbidden", 403, "permission_error")
    NOT_FOUND = ("not_found", 404, "invalid_request_error")
    MODEL_NOT_FOUND = ("model_not_found", 404, "invalid_request_error")
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, "invalid_request_error")
    REQUEST_TIMEOUT = ("request_timeout", 408, "invalid_request_error")
    BODY_TOO_LARGE = ("body_too_large", 413, "invalid_request_error")
    EXPECTATION_FAILED = ("expectation_failed", 417, "invalid_request_error")
    HEADERS_TOO_LARGE = ("headers_too_large", 431, "invalid_request_error")
    QUEUE_FULL = ("queue_full", 429, "rate_limit_error")
    RATE_LIMITED = ("rate_limited", 429, "rate_limit_error")
    TOO_MANY_CONCURRENT = ("too_many_concurrent", 429, "rate_limit_error")
    DEADLINE_UNREACHABLE = ("deadline_unreachable", 429, "rate_limit_error")
    INTERNAL_ERROR = ("internal_error", 500, "server_error")
    UPSTREAM_ERROR = ("upstream_error", 502, "server_error")
    NO_CAPACITY = ("no_capacity", 503, "overloaded_error")
    QUEUE_TIMEOUT = ("queue_timeout", 503, "overloaded_error")
    SERVICE_ASLEEP = ("service_asleep", 503, "overloaded_error")
    SERVICE_PAUSED = ("service_paused", 503, "overloaded_error")
    BUDGET_REACHED = ("budget_reached", 503, "overloaded_error")
    SHUTTING_DOWN = ("shutting_down", 503, "overloaded_error")
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504, "server_error")
    DEADLINE_EXCEEDED = ("deadline_exceeded", 504, "server_error")

    def __init__(self, code: str, status: int, kind: str) -> None:
        self.code = code
        self.status = status
        self.kind = kind


class Refused(HedgeServeError):
    """A request that is answered with an error of ours; the message is for the client."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> None:
        self.code = code
        self.message = message
        self.param = param
        self.close = close
        self.headers = headers
        if retry_after_s is not None:
            self.headers = (*headers, ("Retry-After", str(retry_after_s)))
        super().__init__(message)

    def body(self) -> bytes:
        """The error body, in OpenAI's shape."""
        return json.dumps(error_object(self.code, self.message, self.param)).encode()


def error_object(code: Code, message: str, param: str | None = None) -> dict[str, object]:
    """``{"error": {...}}`` with its four keys."""
    return {"error": {"message": message, "type": code.kind, "param": param, "code": code.code}}


def error_event(dialect: Dialect, code: Code, message: str) -> bytes:
    """The one event that ends a stream honestly; no ``[DONE]`` follows it."""
    data = error_object(code, message)
    if dialect is Dialect.MESSAGES:  # whose clients look for an event of this name and type
        return b"event: error\ndata: " + json.dumps({"type": "error", **data}).encode() + b"\n\n"
    return b"data: " + json.dumps(data).encode() + b"\n\n"
