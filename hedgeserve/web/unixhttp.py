"""HTTP/1.1 on a Unix socket, as little of it as a few questions a day need: one request to a connection.

Parsed by llhttp, like everything else; a whole HTTP server in memory would cost more than all that it is asked.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, unquote

import httptools
import structlog

_CREDENTIALS = struct.Struct("3i")  # process, user, group
_LONGEST_REQUEST_BYTES = 64 * 2**10
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked; ``path`` as it was sent, each of its parts still to be unquoted."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""

    def parts(self) -> list[str]:
        """The path's parts, unquoted."""
        return [unquote(part) for part in self.path.split("/")[1:]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to it."""

    status: int
    kind: str
    body: bytes
    more: Mapping[str, str] | None = None


def error_answer(
    status: int, message: str, more: Mapping[str, str] | None = None, code: str | None = None
) -> Answer:
    """An error in the shape of the public endpoint's."""
    body = json.dumps({"error": {"message": message, "type": "admin_error", "param": None, "code": code}})
    return Answer(status, "application/json", body.encode(), more)


Respond = Callable[[Request], Awaitable[Answer]]


class UnixHttp:
    """Listens on a Unix socket and gives each request to ``respond``, which raises nothing."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> None:
        """Begin to answer; raises OSError where the socket cannot be made."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), str(path))

    async def aclose(self, patience_s: float) -> None:
        """Stop answering: what is being answered has ``patience_s`` to come to its end."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self._answering:
            _, late = await asyncio.wait(self._answering, timeout=patience_s)
            for task in late:
                task.cancel()
        for connection in tuple(self._connections):
            connection.close()

    def begin(self, connection: "_Connection", request: Request) -> asyncio.Task[None]:
        """Have a request answered."""
        task = asyncio.create_task(self._answer(connection, request), name=f"admin {request.path}")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return task

    async def _answer(self, connection: "_Connection", request: Request) -> None:
        try:
            connection.write(await self._respond(request), bodiless=request.method == "HEAD")
        except Exception:
            _log.exception("a question of the operator failed through a mistake of ours", path=request.path)
            connection.close()

    def came(self, connection: "_Connection") -> None:
        """A connection is there."""
        self._connections.add(connection)

    def went(self, connection: "_Connection") -> None:
        """It is there no more."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, server: UnixHttp) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._body = b""
        self._received = 0
        self._task: asyncio.Task[None] | None = None

    # What asyncio tells it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.came(self)
        if _user_of(transport) not in (0, os.geteuid()):  # whatever the socket's mode may say at this moment
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._task is not None or self._transport.is_closing():
            return  # one request to a connection
        self._received += len(data)
        if self._received > _LONGEST_REQUEST_BYTES:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._task is None:
                self.write(Answer(400, "text/plain", b"the request is not valid HTTP\n"))

    def connection_lost(self, error: Exception | None) -> None:
        self._server.went(self)
        if self._task is not None:
            self._task.cancel()

    # What llhttp finds

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        if self._task is None:
            path, _, query = self._target.decode("latin-1").partition("?")
            method = self._parser.get_method().decode("latin-1")
            asked = dict(reversed(parse_qsl(query, keep_blank_values=True)))  # the first of a name counts
            self._task = self._server.begin(self, Request(method, path, asked, self._body))

    # How it answers

    def write(self, answer: Answer, *, bodiless: bool = False) -> None:
        status = HTTPStatus(answer.status)
        lines = {
            "Content-Type": f"{answer.kind}; charset=utf-8",
            "Content-Length": str(len(answer.body)),
            "Server": "hedgeserve",
            "Connection": "close",
            **(answer.more or {}),
        }
        head = [f"HTTP/1.1 {int(status)} {status.phrase}", *(f"{name}: {value}" for name, value in lines.items())]
        if not self._transport.is_closing():
            self._transport.write("\r\n".join([*head, "", ""]).encode() + (b"" if bodiless else answer.body))
        self.close()

    def close(self) -> None:
        self._transport.close()


def _user_of(transport: asyncio.BaseTransport) -> int:
    """Who is at the other end, as the kernel says."""
    peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(peer)[1])
