"""Clients that speak HTTP by hand, as badly as they like, and a stage on which nothing may be left behind."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httptools
import pytest

from tests.upstreams import PATIENCE_S, Engine, House, open_house, until

uvloop: ModuleType | None
try:
    import uvloop
except ImportError:
    uvloop = None

LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(
        None if uvloop is None else uvloop.new_event_loop,
        id="uvloop",
        marks=pytest.mark.skipif(uvloop is None, reason="uvloop is not installed"),
    ),
]
"""Both event loops that a service may run on."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run_on(loop: LoopFactory, story: Coroutine[Any, Any, None]) -> None:
    """Let this happen on a loop of this kind."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story)


@dataclass
class Answer:
    """An answer as it came over the wire; the names of its headers in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> str:
        """The code of an error of ours, of the one shape that errors have."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        assert self.headers["server"] == "hedgeserve"
        assert self.headers["x-request-id"]
        return str(error["code"])

    @property
    def closes(self) -> bool:
        """Whether it says that it is the last on its connection."""
        return self.headers.get("connection", "").lower() == "close"


class Reading:
    """Answers out of bytes, by llhttp: whatever it does not take is no HTTP."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._coming = Answer()
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """More bytes."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._coming.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._coming.body += body

    def on_message_complete(self) -> None:
        self._coming.status = self._parser.get_status_code()
        self.answers.append(self._coming)
        self._coming = Answer()


class Caller:
    """A client with a plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.ended = False
        self._reading = Reading()
        self._told = 0

    def say(self, data: bytes) -> None:
        """Send, without waiting for anything."""
        self.writer.write(data)

    async def hear(self, count: int = 1) -> list[Answer]:
        """The next answers, so many; fewer where the connection ends before."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self._reading.answers) < self._told + count and not self.ended:
                data = await self.reader.read(2**16)
                self._reading.feed(data) if data else self._end()
        heard = self._reading.answers[self._told : self._told + count]
        self._told += len(heard)
        return heard

    async def ask(self, data: bytes) -> Answer:
        """Send, and hear the one answer."""
        self.say(data)
        (answer,) = await self.hear()
        return answer

    async def hear_all(self) -> list[Answer]:
        """Everything up to the end of the connection, which must come, and must not be a reset."""
        heard = await self.hear(2**31)
        assert self.ended
        return heard

    def reset(self) -> None:
        """Leave without a word: the other side gets a reset."""
        tcp = self.writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def _end(self) -> None:
        self.ended = True


@dataclass
class Stage:
    """A house, callers, and what went wrong in the loop."""

    house: House
    troubles: list[dict[str, Any]]
    callers: list[Caller] = field(default_factory=list)

    async def call(self, **options: Any) -> Caller:
        """One more client."""
        url = urlsplit(self.house.balancer.url)
        caller = Caller(*await asyncio.open_connection(url.hostname, url.port, **options))
        self.callers.append(caller)
        return caller

    @property
    def server(self) -> Any:
        """What listens, from inside."""
        return self.house.balancer._server

    @property
    def edges(self) -> list[Any]:
        """The connections as the balancer has them."""
        return list(self.server.connections())

    async def leave(self) -> None:
        """All clients go; whatever was made for them must go too."""
        for caller in self.callers:
            caller.writer.close()
            with suppress(OSError):
                await caller.writer.wait_closed()
        await self.nothing_left()

    async def nothing_left(self, engines: tuple[Engine, ...] = ()) -> None:
        """No connection, no lease, no exchange, no task."""
        balancer = self.house.balancer
        await until(lambda: not self.server.connections() and balancer.load().in_flight == 0)
        await until(lambda: all(engine.running == 0 for engine in engines))
        assert balancer.load().queued == 0
        assert balancer._reception.active == 0
        assert balancer._reception.budget.kept_bytes == 0
        group = self.server._group
        assert group is not None
        await until(lambda: not [task for task in group._tasks if not is_lasting(task)])
        assert not self.troubles


def is_lasting(task: "asyncio.Task[Any]") -> bool:
    """Whether a task of the balancer is one that runs all of the time."""
    return task.get_name() in ("sweep", "read engine metrics")


@asynccontextmanager
async def stage(*engines: Engine, **tables: Any) -> AsyncIterator[Stage]:
    """Engines and a balancer; at the end nothing may be left of any request, nor anything have gone wrong."""
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: troubles.append(context))
    async with open_house(*engines, **tables) as house:
        it = Stage(house, troubles)
        try:
            yield it
        finally:
            for caller in it.callers:
                caller.writer.close()
        await it.leave()
        await it.nothing_left(engines)
