"""The admin API and the dashboard on an address, behind a :class:`~hedgeserve.web.guard.Guard`.

The one room that needs aiohttp here: it is imported only where an address is to be listened on. What is asked is
answered by the same ``respond`` as on the Unix socket; here is only the way to it, and what browsers need to be
told so that no other site's page gets anything out of it. The page itself holds nothing and may be had by anybody:
all that it shows it asks for.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from hedgeserve.errors import ListenError
from hedgeserve.listening import url_of, why_not
from hedgeserve.spec import split_listen
from hedgeserve.web.guard import Asked, Guard, Refusal
from hedgeserve.web.stream import Bell, watch
from hedgeserve.web.unixhttp import Answer, Request, Respond, error_answer

_log = structlog.get_logger(__name__)

_LARGEST_BODY_BYTES = 64 * 2**10
_BODY_S = 10.0
_MOST_CONNECTIONS = 256
_KEEP_ALIVE_S = 30.0
_CLOSING_S = 0.5
_MOST_WATCHERS = 16
_SLOW_WATCHER_S = 10.0
_ONLY_THE_SOCKET = ["admin", "v1", "ticket"]

_HEADERS = {
    "Server": "hedgeserve",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Site:
    """Listens on one address; ``respond`` answers what the guard lets through."""

    def __init__(
        self, guard: Guard, respond: Respond, *, tls: ssl.SSLContext | None = None, bell: Bell | None = None
    ) -> None:
        self._guard = guard
        self._respond = respond
        self._bell = bell or Bell()
        self._watchers = 0
        self._tls = tls
        self._files: Mapping[str, tuple[str, bytes]] = {}
        self._server = web.Server(self._handle, access_log=None, keepalive_timeout=_KEEP_ALIVE_S)
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=_CLOSING_S)
        self.url = ""

    async def start(
        self, listen: str, *, key: str = "admin.listen", inherited: Sequence[socket.socket] = ()
    ) -> None:
        """Begin to answer, on a socket that is ``inherited`` where there is one; :attr:`url` is where.

        Raises:
            ListenError: The address cannot be had; ``key`` is where the person named it.
        """
        host, port = split_listen(listen)
        self._files = await asyncio.to_thread(_read_files)
        await self._runner.setup()
        try:
            if not inherited:
                await web.TCPSite(self._runner, host, port, ssl_context=self._tls).start()
            for each in inherited:
                await web.SockSite(self._runner, each, ssl_context=self._tls).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ListenError(why_not(listen, error, key=key)) from error
        found: tuple[str, int] = self._runner.addresses[0][:2]
        self.url = url_of(*found, tls=self._tls is not None)

    async def aclose(self) -> None:
        """Stop answering; what is being answered has a moment to come to its end."""
        await self._runner.cleanup()

    def link(self, *, lasts_s: float) -> str:
        """The dashboard's address with a ticket that signs one browser in, once, if it comes soon enough."""
        return f"{self.url}/ui?token={self._guard.issue_ticket(time.time(), lasts_s)}"

    # How a request is answered

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer_to(request)
        except Exception:
            _log.exception("a question of the operator failed through a mistake of ours", path=request.path)
            return _refusal(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "HedgeServe failed; its log says why"))

    async def _answer_to(self, request: web.BaseRequest) -> web.StreamResponse:
        if len(self._server.connections) > _MOST_CONNECTIONS:
            return _refusal(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"))
        asked, path = Asked(request.method, _headers(request)), request.rel_url.raw_path
        page = path in ("/", "/ui", "/ui/")
        if refusal := self._guard.judge_place(asked, page=page):
            return _refusal(refusal)
        if page:
            return self._page(request)
        if path == "/ui/session":
            return self._session(asked)
        if path.startswith("/ui/"):
            return self._file(request, path.removeprefix("/ui/"))
        if refusal := self._guard.judge_sender(asked, time.time()):
            return _refusal(refusal)
        if path == "/admin/v1/stream":
            return await self._stream(request)
        return await self._api(request, path)

    def _page(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return _refusal(Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "use GET"), Allow="GET, HEAD")
        ticket = _query(request).get("token")
        if ticket is None:
            if request.rel_url.raw_path != "/ui":
                return _answer(HTTPStatus.SEE_OTHER, {"Location": "/ui"})
            return self._file(request, "index.html")
        # Away from the address bar at once, whatever it was worth. Only a GET uses it up.
        if request.method == "GET" and self._guard.redeem(ticket, time.time()):
            cookie = self._guard.cookie(time.time())
            return _answer(HTTPStatus.SEE_OTHER, {"Location": "/ui", "Set-Cookie": cookie})
        return _answer(HTTPStatus.SEE_OTHER, {"Location": "/ui#used"})

    def _session(self, asked: Asked) -> web.StreamResponse:
        """Sign a browser in by the token, which a person has typed, or out."""
        if asked.method == "POST":
            if not self._guard.is_bearer(asked.header("authorization")):
                return _refusal(Refusal(HTTPStatus.UNAUTHORIZED, "this is not the admin token"))
            return _answer(HTTPStatus.NO_CONTENT, {"Set-Cookie": self._guard.cookie(time.time())})
        if asked.method == "DELETE":
            if refusal := self._guard.judge_sender(asked, time.time()):
                return _refusal(refusal)
            return _answer(HTTPStatus.NO_CONTENT, {"Set-Cookie": self._guard.no_cookie()})
        return _refusal(Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "use POST or DELETE"), Allow="POST, DELETE")

    def _file(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        if name not in self._files:
            return _refusal(Refusal(HTTPStatus.NOT_FOUND, f"there is nothing at {request.rel_url.raw_path[:200]}"))
        if request.method not in ("GET", "HEAD"):
            return _refusal(Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "use GET"), Allow="GET, HEAD")
        kind, content = self._files[name]
        return _answer(HTTPStatus.OK, {"Content-Type": kind}, content)

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send what is new for as long as somebody watches, and takes it as fast as it comes."""
        if request.method != "GET":
            return _refusal(Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "use GET"), Allow="GET")
        seen = request.headers.get("Last-Event-ID") or _query(request).get("after") or ""
        if seen and not (seen.isdecimal() and len(seen) < 19):
            return _refusal(Refusal(HTTPStatus.BAD_REQUEST, "after: write the id of an event"))
        if self._watchers >= _MOST_WATCHERS:
            many = f"{_MOST_WATCHERS} watch already; close one of the pages"
            return _refusal(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, many), **{"Retry-After": "5"})
        self._watchers += 1
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            after = int(seen) if seen else None
            there = watch(self._respond, self._bell, after, watched=lambda: request.transport is not None)
            async with aclosing(there) as frames:
                async for frame in frames:
                    async with asyncio.timeout(_SLOW_WATCHER_S):
                        await response.write(frame)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._watchers -= 1
        return response

    async def _api(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        try:
            async with asyncio.timeout(_BODY_S):
                body = await _read_body(request)
        except TimeoutError:
            return _refusal(Refusal(HTTPStatus.REQUEST_TIMEOUT, "the request's body stopped coming"))
        if body is None:
            largest = f"a body may have {_LARGEST_BODY_BYTES} bytes"
            return _refusal(Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, largest))
        question = Request(request.method, path, _query(request), body)
        if question.parts() == _ONLY_THE_SOCKET:
            return _refusal(Refusal(HTTPStatus.NOT_FOUND, "links are given on the admin socket only"))
        return _of(await self._respond(question))


def _read_files() -> dict[str, tuple[str, bytes]]:
    folder = files("hedgeserve.web") / "static"
    return {
        file.name: (_KINDS[kind], file.read_bytes())
        for file in folder.iterdir()
        if (kind := file.name.rpartition(".")[2]) in _KINDS
    }


def _headers(request: web.BaseRequest) -> dict[str, str]:
    """By name in lower case; what is there twice is joined, so that a second Host makes none."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}{'; ' if key == 'cookie' else ', '}{value}" if key in headers else value
    return headers


def _query(request: web.BaseRequest) -> dict[str, str]:
    return dict(reversed(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)))


async def _read_body(request: web.BaseRequest) -> bytes | None:
    body = b""
    while part := await request.content.readany():
        body += part
        if len(body) > _LARGEST_BODY_BYTES:
            return None
    return body


def _of(answer: Answer) -> web.StreamResponse:
    kind = f"{answer.kind}; charset=utf-8"
    return _answer(answer.status, {"Content-Type": kind, **(answer.more or {})}, answer.body)


def _refusal(refusal: Refusal, **more: str) -> web.StreamResponse:
    if refusal.status is HTTPStatus.UNAUTHORIZED:
        more["WWW-Authenticate"] = "Bearer"
    return _of(error_answer(refusal.status, refusal.why, more))


def _answer(status: int, headers: Mapping[str, str], body: bytes = b"") -> web.StreamResponse:
    return web.Response(status=status, body=body or None, headers={**_HEADERS, **headers})
