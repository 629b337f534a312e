"""Two hundred clients that read nothing of endless streams: what they leave unread is not kept here."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hedgeserve.proxy.chunked import END, chunk
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests.callers import LOOPS, LoopFactory, Stage, run_on, stage
from tests.upstreams import CHAT, DONE, event, until

READERS = 200
LARGE = event("x" * 4000)
SMALL_BUFFER_BYTES = 16 * 2**10
MOST_BUFFERED_BYTES = 384 * 2**10
"""For one client: asyncio's high-water mark of 64 KiB, and one read of a loop (256 KiB) on top."""
MOST_GROWTH_BYTES = 96 * 2**20
"""For the whole process, with the engine and the clients that are in it too: less than 0.5 MiB a stream."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Fountain:
    """An engine on plain sockets: endless streams for those who want them, short ones for the others."""

    def __init__(self) -> None:
        self.endless: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def target(self) -> RouteTarget:
        """The engine as a replica that is ready."""
        url = f"http://127.0.0.1:{self.port}"
        return RouteTarget(ReplicaId("fountain"), url, ZoneId("local/east/a"), Market.SPOT)

    @property
    def held_back(self) -> int:
        """How many endless streams nobody takes anything of at the moment."""
        return sum(writer.transport.get_write_buffer_size() > SMALL_BUFFER_BYTES for writer in self.endless)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Listen."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2 * READERS)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tcp = writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        writer.transport.set_write_buffer_limits(high=2 * SMALL_BUFFER_BYTES)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                await self._answer(json.loads(await reader.readexactly(length)), writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.endless.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, asked: dict[str, object], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        if asked["user"] == "endless":
            self.endless.add(writer)
            while True:
                writer.write(chunk(LARGE))
                await writer.drain()
        for number in range(100):
            writer.write(chunk(event(f"{number} ")))
            await writer.drain()
            await asyncio.sleep(0.002)
        writer.write(chunk(event(finish="stop")) + chunk(DONE) + END)
        await writer.drain()


def request(user: str) -> bytes:
    body = b'{"stream": true, "user": "%b"}' % user.encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)


async def slow_reader(it: Stage) -> socket.socket:
    """A client that asks for an endless stream and never reads; with the smallest buffer that a kernel gives."""
    url = urlsplit(it.house.balancer.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (url.hostname, url.port))
    await loop.sock_sendall(client, request("endless"))
    return client


async def read_a_short_stream(it: Stage) -> None:
    """Somebody else's, whole and in order."""
    caller = await it.call()
    answer = await caller.ask(request("short"))
    events = [json.loads(line[6:]) for line in answer.body.split(b"\n\n") if line.startswith(b"data: {")]
    said = "".join(each["choices"][0]["delta"]["content"] for each in events)
    assert said == "".join(f"{number} " for number in range(100))
    assert answer.body.endswith(DONE)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("loop", LOOPS)
def test_what_slow_readers_leave_unread_is_not_kept_and_harms_nobody(loop: LoopFactory) -> None:
    """Each costs a bounded buffer, their engine is held back, others stream on, and all of it goes with them."""

    async def story() -> None:
        fountain = Fountain()
        async with fountain.run(), stage(limits={"max_concurrent_per_replica": 2 * READERS}) as it:
            it.house.show(fountain.target)
            for listener in it.server._sockets:  # and with it those that it accepts
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
            await read_a_short_stream(it)
            before = resident_bytes()
            clients = [await slow_reader(it) for _ in range(READERS)]
            await read_a_short_stream(it)
            await until(lambda: fountain.held_back == READERS)
            buffered = [edge._transport.get_write_buffer_size() for edge in it.edges]
            assert max(buffered) < MOST_BUFFERED_BYTES
            await read_a_short_stream(it)
            assert [edge._transport.get_write_buffer_size() for edge in it.edges if edge._running] == [
                size for size in buffered if size
            ]
            assert resident_bytes() - before < MOST_GROWTH_BYTES
            assert it.house.balancer.load().in_flight == READERS
            for client in clients:
                client.close()
            await until(lambda: not fountain.endless)
            await it.leave()
            await read_a_short_stream(it)
        print(max(buffered), sum(buffered), resident_bytes() - before)

    run_on(loop, story())
