"""What each path of the endpoint answers: checks, models and health here, everything else by an exchange."""

import asyncio
import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from hedgeserve.metrics import Metrics, Outcome
from hedgeserve.proxy.client import Client, ClientGone
from hedgeserve.proxy.exchange import Exchanges, Report
from hedgeserve.proxy.headers import request_id
from hedgeserve.proxy.incoming import read_body, require_model, understand
from hedgeserve.proxy.keys import Keys
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.routes import FORWARDED, MODELS, OTHER, OWN, Forwarded
from hedgeserve.spec import Spec

_log = structlog.get_logger(__name__)

_JSON = ("Content-Type", "application/json")
_CLIENT_CLOSED = 499  # nginx's number for it; in logs and metrics only
_BODY_STALL_S = 30.0
_OUTCOMES = {429: Outcome.SHED, 500: Outcome.INTERNAL_ERROR, 503: Outcome.SHED}


@dataclass(frozen=True, slots=True)
class Standing:
    """What the front must know of the service around it, asked anew each time."""

    ready: Callable[[], bool]
    queue_full: Callable[[], bool]
    ready_checks: Callable[[], Mapping[str, str]]
    draining_retry_s: Callable[[], int | None]
    """Seconds after which to come back while the service stops; None: it does not."""


class Front:
    """Answers every request that reaches the endpoint, and tells of each: one log line, the metrics."""

    def __init__(self, spec: Spec, keys: Keys, exchanges: Exchanges, metrics: Metrics, standing: Standing) -> None:
        self._names = (spec.model.id, *spec.model.aliases)
        self._limits = spec.limits
        self._keys = keys
        self._exchanges = exchanges
        self._metrics = metrics
        self._standing = standing
        self._since = int(time.time())
        self._active = 0
        self._all_done = asyncio.Event()
        self._all_done.set()

    @property
    def active(self) -> int:
        """Requests meant for replicas that are being answered or wait."""
        return self._active

    async def wait_done(self) -> None:
        """Return once there are none of them."""
        await self._all_done.wait()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        started_s = self._exchanges.now_s()
        client = Client(
            request, request_id(request.headers), closing=self._standing.draining_retry_s() is not None
        )
        report = Report()
        forwarded = FORWARDED.get(request.path) if request.method == "POST" else None
        if forwarded is not None:
            self._active += 1
            self._all_done.clear()
        try:
            await self._answer(request, forwarded, client, report)
        except ClientGone:
            report.outcome = Outcome.CANCELLED
        except asyncio.CancelledError:
            report.outcome = Outcome.CANCELLED
            raise
        finally:
            if forwarded is not None:
                self._active -= 1
                if not self._active:
                    self._all_done.set()
            self._tell(request, forwarded, client, report, started_s)
        return client.response if client.begun else web.Response()

    async def _answer(
        self, request: web.BaseRequest, forwarded: Forwarded | None, client: Client, report: Report
    ) -> None:
        try:
            if forwarded is not None:
                await self._forward(request, forwarded, client, report)
            else:
                await self._answer_ourselves(request, client)
                report.outcome = Outcome.OK
        except Refused as refused:
            report.outcome = _OUTCOMES.get(
                refused.code.status,
                Outcome.CLIENT_ERROR if refused.code.status < 500 else Outcome.UPSTREAM_ERROR,
            )
            await client.refuse(refused, _attempts(report))
        except ClientGone:
            raise
        except Exception:
            _log.exception("a request failed through a mistake of ours", path=request.path)
            report.outcome = Outcome.INTERNAL_ERROR
            if client.begun:
                client.abort()
            else:
                await client.refuse(Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request."), [])

    async def _forward(self, request: web.BaseRequest, route: Forwarded, client: Client, report: Report) -> None:
        self._refuse_upgrade(request)
        self._require_key(request)
        retry_s = self._standing.draining_retry_s()
        if retry_s is not None:
            raise Refused(
                Code.SHUTTING_DOWN,
                "The service is stopping and takes no new requests.",
                retry_after_s=retry_s,
                close=True,
            )
        await self._say_continue(request)
        try:
            body = await read_body(
                request.content,
                declared=request.content_length,
                limit=self._limits.max_body,
                stall_s=_BODY_STALL_S,
            )
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise Refused(Code.BAD_REQUEST, f"The request body is not valid HTTP: {error}.", close=True) from None
        query = request.rel_url.raw_query_string
        path = f"{route.path}?{query}" if query else route.path
        ask = understand(route, path, request.headers, body, client.request_id, self._names)
        await self._exchanges.run(ask, client, report)

    async def _answer_ourselves(self, request: web.BaseRequest, client: Client) -> None:
        path = request.path
        self._refuse_upgrade(request)
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
        if not self._keys.accept(request.headers):
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

    @staticmethod
    def _refuse_upgrade(request: web.BaseRequest) -> None:
        upgrade = request.headers.get("Upgrade")
        if upgrade is not None and "upgrade" in request.headers.get("Connection", "").lower():
            raise Refused(
                Code.UPGRADE_NOT_SUPPORTED,
                f'Upgrade to "{upgrade[:40]}" is not supported here; send plain HTTP requests.',
                close=True,
            )

    async def _say_continue(self, request: web.BaseRequest) -> None:
        expected = request.headers.get("Expect")
        if expected is None or request.version < HttpVersion11:
            return
        if expected.lower() != "100-continue":
            raise Refused(
                Code.EXPECTATION_FAILED, 'The only "Expect" that is understood is "100-continue".', close=True
            )
        if (request.content_length or 0) <= self._limits.max_body:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # what follows is still the beginning of the answer

    def _tell(
        self,
        request: web.BaseRequest,
        forwarded: Forwarded | None,
        client: Client,
        report: Report,
        started_s: float,
    ) -> None:
        duration_s = self._exchanges.now_s() - started_s
        path = request.path
        route = path if path in FORWARDED or path in OWN else MODELS if path.startswith(f"{MODELS}/") else OTHER
        code = client.status or _CLIENT_CLOSED
        self._metrics.request_ended(route, report.outcome, code)
        if forwarded is None:
            _log.debug("request", request_id=client.request_id, route=route, status=code)
            return
        self._metrics.request_took(route, duration_s, report.attempts, report.ttft_s)
        _log.info(
            "request",
            request_id=client.request_id,
            route=route,
            status=code,
            outcome=str(report.outcome),
            replica=report.replica or None,
            attempts=report.attempts,
            duration_s=round(duration_s, 4),
            ttft_s=None if report.ttft_s is None else round(report.ttft_s, 4),
        )


def _attempts(report: Report) -> list[tuple[str, str]]:
    return [("X-HedgeServe-Attempts", str(report.attempts))] if report.attempts else []


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
