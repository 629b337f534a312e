"""The admin API: what ``hedgeserve status`` and its sisters ask, over a Unix socket only for its owner."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from hedgeserve.errors import BootstrapError, HedgeServeError, StateDirectoryError

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


class Admin:
    """Serves the admin API on a Unix socket, mode 0600."""

    def __init__(self, service: Operated, socket: Path) -> None:
        self._service = service
        self._socket = socket
        app = web.Application(middlewares=[_as_json])
        app.router.add_get("/admin/v1/status", self._status)
        app.router.add_get("/admin/v1/events", self._events)
        app.router.add_get("/admin/v1/logs/{replica}", self._logs)
        app.router.add_post("/admin/v1/down", self._down)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSING_S)

    async def start(self) -> None:
        """Begin to answer.

        A socket that an earlier run left is replaced: whoever may start holds the state directory's lock.

        Raises:
            StateDirectoryError: The socket cannot be made.
        """
        await self._runner.setup()
        try:
            await asyncio.to_thread(self._socket.unlink, missing_ok=True)
            await web.UnixSite(self._runner, str(self._socket)).start()
            await asyncio.to_thread(self._socket.chmod, 0o600)
        except OSError as error:
            await self._runner.cleanup()
            raise StateDirectoryError(f"the admin socket {self._socket} cannot be made: {error}") from None

    async def aclose(self) -> None:
        """Stop answering and remove the socket."""
        await self._runner.cleanup()
        await asyncio.to_thread(self._socket.unlink, missing_ok=True)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._service.status())

    async def _events(self, request: web.Request) -> web.Response:
        after = _number(request, "after", 0, 2**62)
        limit = _number(request, "limit", _DEFAULT_EVENTS, _MOST_EVENTS)
        events = await self._service.events(after=after, limit=limit, replica=request.query.get("replica"))
        return web.json_response({"events": list(events)})

    async def _logs(self, request: web.Request) -> web.Response:
        replica = request.match_info["replica"]
        lines = _number(request, "lines", _DEFAULT_LOG_LINES, _MOST_LOG_LINES)
        try:
            return web.Response(text=await self._service.logs(replica, lines))
        except KeyError:
            raise web.HTTPNotFound(
                text=f"there is no replica {replica} now; `hedgeserve status` lists them"
            ) from None
        except BootstrapError as error:
            raise web.HTTPConflict(text=str(error)) from None

    async def _down(self, request: web.Request) -> web.Response:
        self._service.request_down()
        return web.json_response({"status": "stopping"}, status=202)


def _number(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or int(text) > most:
        raise web.HTTPBadRequest(text=f"{name}={text!r}: write a whole number from 0 to {most}")
    return int(text)


@web.middleware
async def _as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors in the shape of the public endpoint's."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        status, message = error.status, error.text or error.reason
    except HedgeServeError as error:
        status, message = 500, str(error)
    body = json.dumps({"error": {"message": message, "type": "admin_error", "param": None, "code": None}})
    return web.Response(text=body, status=status, content_type="application/json")
