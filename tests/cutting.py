"""A proxy before an engine that breaks answers where it is told to: the failures of a machine, from outside it."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from hedgeserve.proxy.sse import DONE
from tests.upstreams import until

# As vLLM says them: what it tells when its engine has died, and the last event of one that is told to stop.
DIED = (
    b'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","code":500}}\n\n'
)
DONE_EVENT = b"data: " + DONE + b"\n\n"


class Cut(StrEnum):
    """What becomes of the connection after so many events."""

    CLOSE = "close"  # closed, though the body is not whole
    RESET = "reset"
    HALF = "half"  # closed in the middle of the next event
    SILENCE = "silence"
    END = "end"  # a clean end of the body
    ERROR = "error"  # an error in the stream, and its end


@dataclass
class CuttingProxy:
    """Asks ``frail`` on the first request of each name that ``x-cut: NAME KIND PLACE`` gives, and cuts that one.

    All else is asked of ``sound`` and passes untouched. A busy engine puts several tokens into one event: a stream
    of fewer events than ``PLACE`` is cut before the last one. ``cut`` counts the cuts, by where they were made.
    """

    frail: str
    sound: str
    cut: Counter[int] = field(default_factory=Counter)
    asked: set[str] = field(default_factory=set)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()  # either side has left
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        names = _headers(head)
        body = await reader.readexactly(int(names.get("content-length", "0")))
        name, _, cut = names.get("x-cut", "").partition(" ")
        first = bool(name) and name not in self.asked
        self.asked.add(name)
        kind, _, place = cut.partition(" ")
        url = urlsplit(self.frail if first else self.sound)
        upstream, sender = await asyncio.open_connection(url.hostname, url.port)
        try:
            sender.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            answer = await upstream.readuntil(b"\r\n\r\n")
            if first and _headers(answer).get("transfer-encoding") == "chunked":
                writer.write(answer)
                await self._cut(upstream, writer, Cut(kind), int(place))
            else:
                writer.write(answer[:-2] + b"Connection: close\r\n\r\n")
                while payload := await upstream.read(2**16):
                    writer.write(payload)
                    await writer.drain()
        finally:
            sender.close()

    async def _cut(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: Cut, place: int
    ) -> None:
        events = _events(upstream)
        told, event = 0, await anext(events)
        while told < place and event != DONE_EVENT:
            writer.write(_chunk(event))
            await writer.drain()
            told, event = told + 1, await anext(events)
        self.cut[told] += 1
        match kind:
            case Cut.CLOSE:
                return
            case Cut.RESET:
                await until(lambda: not writer.transport.get_write_buffer_size())
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            case Cut.HALF:
                writer.write(_chunk(event[: len(event) // 2]))
            case Cut.SILENCE:
                await writer.drain()
                await asyncio.Event().wait()
            case Cut.END:
                writer.write(_chunk(b""))
            case Cut.ERROR:
                writer.write(_chunk(DIED) + _chunk(DONE_EVENT) + _chunk(b""))


@asynccontextmanager
async def cutting_proxy(frail: str, sound: str) -> AsyncIterator[CuttingProxy]:
    """A proxy that listens on a port of its own."""
    proxy = CuttingProxy(frail, sound)
    connections = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        await proxy.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def _headers(head: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _events(upstream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The events of a chunked body, one by one."""
    rest = b""
    while size := int(await upstream.readuntil(b"\r\n"), 16):
        rest += (await upstream.readexactly(size + 2))[:-2]
        *events, rest = rest.split(b"\n\n")
        for event in events:
            yield event + b"\n\n"


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)
