"""What HedgeServe itself answers on the endpoint, with aiohttp: checks, models, metrics, and what is not there."""

import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import structlog
from aiohttp import web

from hedgeserve.metrics import Metrics, Outcome
from hedgeserve.proxy.client import Client, ClientGone
from hedgeserve.proxy.headers import request_id
from hedgeserve.proxy.incoming import require_model
from hedgeserve.proxy.keys import Keys
from hedgeserve.proxy.parties import outcome_of
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.routes import FORWARDED, MODELS, OTHER, OWN
from hedgeserve.spec import Spec

_log = structlog.get_logger(__name__)

_JSON = ("Content-Type", "application/json")
_CLIENT_CLOSED = 499  # nginx's number for it; in logs and metrics only


@dataclass(frozen=True, slots=True)
class Standing:
    """What the front must know of the service around it, asked anew each time."""

    ready: Callable[[], bool]
    queue_full: Callable[[], bool]
    ready_checks: Callable[[], Mapping[str, str]]
    draining_retry_s: Callable[[], int | None]
    """Seconds after which to come back while the service stops; None: it does not."""


class Front:
    """Answers what is not for replicas, and tells of each: one log line, the metrics."""

    def __init__(self, spec: Spec, keys: Keys, metrics: Metrics, standing: Standing) -> None:
        self._names = (spec.model.id, *spec.model.aliases)
        self._limits = spec.limits
        self._keys = keys
        self._metrics = metrics
        self._standing = standing
        self._since = int(time.time())

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; its connection is closed after it."""
        client = Client(request, request_id(request.headers.get("X-Request-Id", "").encode()), closing=True)
        outcome = Outcome.OK
        try:
            await self._answer_ourselves(request, client)
        except Refused as refused:
            outcome = outcome_of(refused.code)
            await client.refuse(refused, [])
        except ClientGone:
            outcome = Outcome.CANCELLED
        except Exception:
            _log.exception("a request failed through a mistake of ours", path=request.path)
            outcome = Outcome.INTERNAL_ERROR
            if not client.begun:
                await client.refuse(Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request."), [])
        finally:
            self._tell(request, client, outcome)
        return client.response if client.begun else web.Response()

    async def _answer_ourselves(self, request: web.BaseRequest, client: Client) -> None:
        path = request.path
        if path in FORWARDED:
            raise _wrong_method(request, "POST")
        if path not in OWN and not path.startswith(f"{MODELS}/"):
            raise Refused(Code.NOT_FOUND, f"There is nothing at {path[:200]}; see /v1/models for what is served.")
        if request.method not in ("GET", "HEAD"):
            raise _wrong_method(request, "GET, HEAD")
        match path:
            case "/livez":
                await _json(client, 200, {"status": "alive"})
            case "/readyz":
                await self._readyz(client)
            case "/health":
                up = self._standing.ready() and self._standing.draining_retry_s() is None
                await client.whole(200 if up else 503, [], b"")
            case "/metrics":
                self._require_operator(request)
                await client.whole(200, [("Content-Type", self._metrics.content_type)], self._metrics.render())
            case _:
                self._require_key(request)
                await self._models(client, unquote(path.removeprefix(MODELS).removeprefix("/")))

    async def _readyz(self, client: Client) -> None:
        checks = dict(self._standing.ready_checks())
        checks["accepting"] = "" if self._standing.draining_retry_s() is None else "the service is stopping"
        # Waiting is a service too: with room in the line, nothing need be ready.
        full = self._standing.queue_full() and (self._limits.max_queue > 0 or not self._standing.ready())
        checks["queue"] = "no replica is free and nobody more may wait" if full else ""
        failing = [name for name, trouble in checks.items() if trouble]
        await _json(
            client,
            503 if failing else 200,
            {
                "status": "failing" if failing else "ready",
                "failing": {name: checks[name] for name in failing},
                "passing": [name for name in checks if name not in failing],
            },
        )

    async def _models(self, client: Client, wanted: str) -> None:
        if not wanted:
            await _json(client, 200, {"object": "list", "data": [self._model(name) for name in self._names]})
            return
        require_model(wanted, self._names)
        await _json(client, 200, self._model(wanted))

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

    def _require_key(self, request: web.BaseRequest) -> None:
        if self._keys.who([(name.lower(), name, value) for name, value in request.raw_headers]) is None:
            raise Refused(
                Code.INVALID_API_KEY,
                "The API key is missing or wrong; send one as `Authorization: Bearer <key>`.",
                headers=(("WWW-Authenticate", "Bearer"),),
            )

    def _require_operator(self, request: web.BaseRequest) -> None:
        if _from_this_machine(request):
            return
        if not self._keys:
            raise Refused(
                Code.METRICS_FORBIDDEN,
                "Metrics are for this machine only, unless the service has API keys and one of them is sent.",
            )
        self._require_key(request)

    def _tell(self, request: web.BaseRequest, client: Client, outcome: Outcome) -> None:
        path = request.path
        route = path if path in FORWARDED or path in OWN else MODELS if path.startswith(f"{MODELS}/") else OTHER
        code = client.status or _CLIENT_CLOSED
        self._metrics.request_ended(route, outcome, code)
        _log.debug("request", request_id=client.request_id, route=route, status=code)


def _wrong_method(request: web.BaseRequest, allowed: str) -> Refused:
    return Refused(
        Code.METHOD_NOT_ALLOWED,
        f"{request.method[:20]} is not allowed on {request.path[:200]}; use {allowed.replace(', ', ' or ')}.",
        headers=(("Allow", allowed),),
    )


def _from_this_machine(request: web.BaseRequest) -> bool:
    try:
        peer = ipaddress.ip_address(request.remote or "")
    except ValueError:
        return False
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return (mapped or peer).is_loopback


async def _json(client: Client, status: int, answer: Mapping[str, object]) -> None:
    await client.whole(status, [_JSON], json.dumps(answer).encode())
