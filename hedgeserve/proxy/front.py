"""What HedgeServe itself answers on the endpoint: checks, models, metrics, and what is not there."""

import ipaddress
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import structlog

from hedgeserve.metrics import Metrics, Outcome
from hedgeserve.proxy.edge import Edge
from hedgeserve.proxy.incoming import require_model
from hedgeserve.proxy.keys import Keys
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.report import outcome_of
from hedgeserve.proxy.request import Incoming
from hedgeserve.proxy.routes import FORWARDED, MODELS, OTHER, OWN
from hedgeserve.spec import Spec

_log = structlog.get_logger(__name__)

_PASSED_ON = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
"""Headers that only a proxy sets, or somebody who would rather have asked himself."""

_Answer = tuple[int, str, bytes]
"""Status, content type, body."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the front must know of the service around it, asked anew each time."""

    ready: Callable[[], bool]
    queue_full: Callable[[], bool]
    ready_checks: Callable[[], Mapping[str, str]]
    draining_retry_s: Callable[[], int | None]
    """Seconds after which to come back while the service stops; None: it does not."""
    closed: Callable[[], str] = str
    """Why the endpoint is closed on purpose; empty: it is not."""


class Front:
    """Answers what is not for replicas, and tells of each: one log line, the metrics."""

    def __init__(self, spec: Spec, keys: Keys, metrics: Metrics, standing: Standing) -> None:
        self._names: tuple[str, ...] = (spec.model.id, *spec.model.aliases)
        self._limits = spec.limits
        self._keys = keys
        self._metrics = metrics
        self._standing = standing
        self._since = int(time.time())

    def adopt(self, spec: Spec, names: Sequence[str]) -> None:
        """Serve these names within these limits from now on."""
        self._names = tuple(names)
        self._limits = spec.limits

    def answer(self, incoming: Incoming, client: Edge, request_id: str) -> None:
        """Answer one request."""
        outcome, status = Outcome.OK, 200
        try:
            status, kind, body = self._find(incoming, client.peer)
        except Refused as refused:
            outcome, status = outcome_of(refused.code), refused.code.status
            self._metrics.errored(refused.code.code)
            client.refuse(refused, counted=True)
        except Exception:
            _log.exception("a request failed through a mistake of ours", path=incoming.path)
            outcome, status = Outcome.INTERNAL_ERROR, 500
            self._metrics.errored(Code.INTERNAL_ERROR.code)
            client.refuse(Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request."), counted=True)
        else:
            client.whole(status, b"Content-Type: %b\r\n" % kind.encode(), body)
        path = incoming.path
        route = path if path in FORWARDED or path in OWN else MODELS if path.startswith(f"{MODELS}/") else OTHER
        self._metrics.request_ended(route, outcome, status)
        _log.debug("request", request_id=request_id, route=route, status=status)

    def _find(self, incoming: Incoming, peer: str) -> _Answer:
        path = incoming.path
        if path in FORWARDED:
            raise _wrong_method(incoming, "POST")
        if path not in OWN and not path.startswith(f"{MODELS}/"):
            raise Refused(Code.NOT_FOUND, f"There is nothing at {path[:200]}; see /v1/models for what is served.")
        if incoming.method not in (b"GET", b"HEAD"):
            raise _wrong_method(incoming, "GET, HEAD")
        match path:
            case "/livez":
                return _json(200, {"status": "alive"})
            case "/readyz":
                return self._readyz()
            case "/health":
                standing = self._standing
                up = standing.ready() and standing.draining_retry_s() is None and not standing.closed()
                return 200 if up else 503, "application/octet-stream", b""
            case "/metrics":
                self._require_operator(incoming, peer)
                return 200, self._metrics.content_type, self._metrics.render()
        self._require_key(incoming)
        return self._models(unquote(path.removeprefix(MODELS).removeprefix("/")))

    def _readyz(self) -> _Answer:
        checks = dict(self._standing.ready_checks())
        stopping = self._standing.draining_retry_s() is not None
        checks["accepting"] = "the service is stopping" if stopping else self._standing.closed()
        # Waiting is a service too: with room in the line, nothing need be ready.
        full = self._standing.queue_full() and (self._limits.max_queue > 0 or not self._standing.ready())
        checks["queue"] = "no replica is free and nobody more may wait" if full else ""
        failing = [name for name, trouble in checks.items() if trouble]
        return _json(
            503 if failing else 200,
            {
                "status": "failing" if failing else "ready",
                "failing": {name: checks[name] for name in failing},
                "passing": [name for name in checks if name not in failing],
            },
        )

    def _models(self, wanted: str) -> _Answer:
        if not wanted:
            return _json(200, {"object": "list", "data": [self._model(name) for name in self._names]})
        require_model(wanted, self._names)
        return _json(200, self._model(wanted))

    def _model(self, name: str) -> dict[str, object]:
        root = self._names[0]
        return {
            "id": name,
            "object": "model",
            "created": self._since,
            "owned_by": "hedgeserve",
            "root": root,
            "parent": None if name == root else root,
        }

    def _require_key(self, incoming: Incoming) -> None:
        if self._keys.who(incoming.headers) is None:
            raise self._keys.refusal(incoming.headers)

    def _require_operator(self, incoming: Incoming, peer: str) -> None:
        if _is_this_machine(peer) and not _PASSED_ON & incoming.first.keys():
            return
        if not self._keys:
            raise Refused(
                Code.METRICS_FORBIDDEN,
                "Metrics are for this machine only, unless the service has API keys and one of them is sent.",
            )
        self._require_key(incoming)


def _wrong_method(incoming: Incoming, allowed: str) -> Refused:
    method = incoming.method.decode("latin-1")[:20]
    return Refused(
        Code.METHOD_NOT_ALLOWED,
        f"{method} is not allowed on {incoming.path[:200]}; use {allowed.replace(', ', ' or ')}.",
        headers=(("Allow", allowed),),
    )


def _is_this_machine(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _json(status: int, answer: Mapping[str, object]) -> _Answer:
    return status, "application/json", json.dumps(answer).encode()
