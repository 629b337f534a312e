"""The admin API: what ``hedgeserve status`` and its sisters ask, over a Unix socket only for its owner."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog

from hedgeserve.errors import BootstrapError, HedgeServeError, StateDirectoryError
from hedgeserve.web.unixhttp import Answer, Request, UnixHttp

_log = structlog.get_logger(__name__)

_DEFAULT_EVENTS = 100
_MOST_EVENTS = 1000
_DEFAULT_LOG_LINES = 100
_MOST_LOG_LINES = 10_000
_CLOSING_S = 0.5


class Operated(Protocol):
    """The service as its operator may see and handle it."""

    def status(self) -> Mapping[str, Any]:
        """Everything at a glance, JSON-able."""

    async def events(self, *, after: int, limit: int, replica: str | None) -> Sequence[Mapping[str, Any]]:
        """Events of the journal with an id above ``after``, oldest first; with 0 the newest ``limit`` ones."""

    async def logs(self, replica: str, lines: int) -> str:
        """The end of a replica's engine log; KeyError when there is no such replica."""

    def request_down(self) -> None:
        """Stop, and terminate every VM."""


class _Refused(Exception):
    """No, with a status and the reason."""

    def __init__(self, status: int, message: str, **more: str) -> None:
        super().__init__(message)
        self.status, self.more = status, more


class Admin:
    """Serves the admin API on a Unix socket, mode 0600."""

    def __init__(self, service: Operated, socket: Path) -> None:
        self._service = service
        self._socket = socket
        self._http = UnixHttp(self._respond)

    async def start(self) -> None:
        """Begin to answer.

        A socket that an earlier run left is replaced: whoever may start holds the state directory's lock.

        Raises:
            StateDirectoryError: The socket cannot be made.
        """
        try:
            await asyncio.to_thread(self._socket.unlink, missing_ok=True)
            await self._http.start(self._socket)
            await asyncio.to_thread(self._socket.chmod, 0o600)
        except OSError as error:
            await self._http.aclose(0.0)
            raise StateDirectoryError(f"the admin socket {self._socket} cannot be made: {error}") from None

    async def aclose(self) -> None:
        """Stop answering and remove the socket."""
        await self._http.aclose(_CLOSING_S)
        await asyncio.to_thread(self._socket.unlink, missing_ok=True)

    async def _respond(self, request: Request) -> Answer:
        """Answer; errors in the shape of the public endpoint's."""
        try:
            return await self._find(request)
        except _Refused as refused:
            return _error(refused.status, str(refused), refused.more)
        except HedgeServeError as error:
            return _error(500, str(error))
        except Exception:
            _log.exception("a question of the operator failed through a mistake of ours", path=request.path)
            return _error(500, "HedgeServe failed to answer this request; its log says why")

    async def _find(self, request: Request) -> Answer:
        match request.parts():
            case ["admin", "v1", "status"]:
                _require(request, "GET", "HEAD")
                return _json(self._service.status())
            case ["admin", "v1", "events"]:
                _require(request, "GET", "HEAD")
                return await self._events(request)
            case ["admin", "v1", "logs", replica] if replica:
                _require(request, "GET", "HEAD")
                return await self._logs(request, replica)
            case ["admin", "v1", "down"]:
                _require(request, "POST")
                self._service.request_down()
                return _json({"status": "stopping"}, 202)
        raise _Refused(404, f"there is nothing at {request.path[:200]}")

    async def _events(self, request: Request) -> Answer:
        after = _number(request, "after", 0, 2**62)
        limit = _number(request, "limit", _DEFAULT_EVENTS, _MOST_EVENTS)
        events = await self._service.events(after=after, limit=limit, replica=request.query.get("replica"))
        return _json({"events": list(events)})

    async def _logs(self, request: Request, replica: str) -> Answer:
        lines = _number(request, "lines", _DEFAULT_LOG_LINES, _MOST_LOG_LINES)
        try:
            return Answer(200, "text/plain", (await self._service.logs(replica, lines)).encode())
        except KeyError:
            raise _Refused(404, f"there is no replica {replica} now; `hedgeserve status` lists them") from None
        except BootstrapError as error:
            raise _Refused(409, str(error)) from None


def _require(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise _Refused(405, f"{request.method} is not allowed on {request.path}; use {allowed}", Allow=allowed)


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or int(text) > most:
        raise _Refused(400, f"{name}={text!r}: write a whole number from 0 to {most}")
    return int(text)


def _json(answer: Mapping[str, Any], status: int = 200) -> Answer:
    return Answer(status, "application/json", json.dumps(answer).encode())


def _error(status: int, message: str, more: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "admin_error", "param": None, "code": None}})
    return Answer(status, "application/json", body.encode(), more)
