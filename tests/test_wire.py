"""The way to a replica, with servers that answer in every way that HTTP allows, and in some that it does not."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.machines.authority import Authority
from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.head import Head
from hedgeserve.proxy.outbox import Outbox
from hedgeserve.proxy.wire import Endpoint, Link, Wires
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests.tls import server_context
from tests.upstreams import PATIENCE_S, until

OK = b"HTTP/1.1 200 OK\r\n"
TWO = OK + b"Content-Length: 2\r\n\r\n"
CHUNKED = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STEP_S = 0.002

Step = bytes | float | str
"""What a scripted server does: sends bytes, waits so many seconds, or ``close`` / ``abort`` / ``mute``."""


@dataclass
class Lost:
    phase: FailurePhase
    reason: str
    timed_out: bool
    stale: bool


@dataclass
class Listener:
    """A sink that writes down what it hears, and insists on hearing it in order."""

    heads: list[Head] = field(default_factory=list)
    body: bytes = b""
    link: Link | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    lost_as: Lost | None = None
    drop_at_head: bool = False

    def connected(self, link: Link) -> None:
        assert not self.done.is_set()
        self.link = link

    def answered(self, head: Head) -> None:
        assert self.link is not None
        assert not self.heads
        self.heads.append(head)
        if self.drop_at_head:
            self.link.drop()
            self.done.set()

    def answered_whole(self, head: Head, body: bytes) -> None:
        self.answered(head)
        self.body = body
        self.ended()

    def received(self, payload: bytes, framed: bytes | None) -> None:
        assert self.heads
        assert not self.done.is_set()
        assert payload
        self.body += payload

    def received_all(self, payloads: list[bytes], framed: bytes) -> None:
        for payload in payloads:
            self.received(payload, None)

    def fed(self, out: bytes) -> None:
        self.body += out

    def ended(self) -> None:
        assert not self.done.is_set()
        self.done.set()

    def lost(self, phase: FailurePhase, reason: str, *, timed_out: bool = False, stale: bool = False) -> None:
        assert not self.done.is_set()
        self.lost_as = Lost(phase, reason, timed_out, stale)
        self.done.set()


class Scripted:
    """A server that plays a script for each request, on a socket and nothing else."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self.scripts = list(scripts)
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\nbody"))
                await self._play(self.scripts.pop(0) if self.scripts else [TWO + b"ok"], reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    @staticmethod
    async def _play(script: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                    await asyncio.sleep(STEP_S)  # so that it arrives in a piece of its own
                case float():
                    await asyncio.sleep(step)
                case "close":
                    raise OSError("done")
                case "abort":
                    tcp = writer.get_extra_info("socket")
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    raise OSError("done")
                case _:
                    await reader.read()


@dataclass
class Road:
    """The way to one scripted server."""

    server: Scripted
    endpoint: Endpoint
    wires: Wires
    tasks: set[asyncio.Task[None]]

    async def ask(self, listener: Listener | None = None, *, request: bytes = b"") -> Listener:
        """Ask, and hear all of it."""
        listener = listener or Listener()
        request = request or self.endpoint.request(b"POST", b"/v1/x", b"", b"body")
        self.wires.ask(self.endpoint, listener, request, lambda: True)
        async with asyncio.timeout(PATIENCE_S):
            await listener.done.wait()
        return listener


@asynccontextmanager
async def road_to(
    *scripts: Sequence[Step], serving: ssl.SSLContext | None = None, trust: ssl.SSLContext | None = None
) -> AsyncIterator[Road]:
    """A server with these scripts, and the way there; nothing is left of either."""
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: troubles.append(context))
    scripted, tasks = Scripted(*scripts), set[asyncio.Task[None]]()

    def spawn(work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint.of(
        RouteTarget(
            ReplicaId("localhost"),
            f"{'https' if serving else 'http'}://127.0.0.1:{port}",
            ZoneId("local/east/a"),
            Market.SPOT,
            own_tls=serving is not None,
        ),
        trust or ssl.create_default_context(),
        ssl.create_default_context,
    )
    try:
        loop = asyncio.get_running_loop()
        wires = Wires(Outbox(loop.call_soon), connect_s=1, now_s=loop.time, spawn=spawn)
        yield Road(scripted, endpoint, wires, tasks)
    finally:
        endpoint.close()
        for link in tuple(endpoint.links):
            link.abort()
        await until(lambda: not endpoint.links and not scripted.open and not tasks)
        server.close()
        await server.wait_closed()
    assert not troubles


GOOD: dict[str, tuple[Sequence[Step], bytes, int]] = {
    # the script, the body, how many connections two requests need
    "length": ([TWO + b"ok"], b"ok", 1),
    "length, in pieces": ([TWO, b"o", b"k"], b"ok", 1),
    "length, with the head cut": ([OK[:9], OK[9:] + b"Content-Le", b"ngth: 2\r", b"\n\r", b"\nok"], b"ok", 1),
    "no body at all": ([OK + b"Content-Length: 0\r\n\r\n"], b"", 1),
    "a head in single bytes": ([bytes([byte]) for byte in TWO + b"ok"], b"ok", 1),
    "chunks": ([CHUNKED, b"2\r\nok\r\n", b"3\r\nyes\r\n", b"0\r\n\r\n"], b"okyes", 1),
    "chunks, all at once": ([CHUNKED + b"2\r\nok\r\n3\r\nyes\r\n0\r\n\r\n"], b"okyes", 1),
    "chunks, several at once": ([CHUNKED, b"2\r\nok\r\n3\r\nyes\r\n", b"1\r\n!\r\n0\r\n\r\n"], b"okyes!", 1),
    "chunks, cut anywhere": ([CHUNKED, b"2", b"\r", b"\nok\r\n3\r\nye", b"s\r\n0\r\n\r", b"\n"], b"okyes", 1),
    "chunks with extensions and trailers": ([CHUNKED, b"2;a=b\r\nok\r\n0\r\nX: y\r\n\r\n"], b"ok", 1),
    "Chunked in capitals": ([OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\n!\r\n0\r\n\r\n"], b"!", 1),
    "100 before it": ([b"HTTP/1.1 100 Continue\r\n\r\n" + TWO + b"ok"], b"ok", 1),
    "103 and 102 before it": (
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n", TWO + b"ok"],
        b"ok",
        1,
    ),
    "204": ([b"HTTP/1.1 204 No Content\r\n\r\n"], b"", 1),
    "304 with a length": ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"], b"", 1),
    "Connection: close": ([OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", "close"], b"ok", 2),
    "Connection: close that is not done": (
        [OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", "mute"],
        b"ok",
        2,
    ),
    "to the end": ([OK + b"\r\n", b"o", b"k", "close"], b"ok", 2),
    "HTTP/1.0 to the end": ([b"HTTP/1.0 200 OK\r\n\r\nok", "close"], b"ok", 2),
    "HTTP/1.0 with a length": ([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "close"], b"ok", 2),
    "HTTP/1.0 that keeps alive": (
        [b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"],
        b"ok",
        1,
    ),
    "more than the length says": ([TWO + b"ok and more"], b"ok", 2),
    "more after the last chunk": ([CHUNKED, b"2\r\nok\r\n", b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"], b"ok", 2),
    "a body where there is none": ([b"HTTP/1.1 204 No Content\r\n\r\nbody"], b"", 2),
}


@pytest.mark.parametrize("case", GOOD)
async def test_an_answer_is_read_as_it_is_meant_and_its_connection_kept_where_it_may_be(case: str) -> None:
    """The next request goes over the same connection, unless the answer or anything behind it forbids that."""
    script, body, connections = GOOD[case]
    async with road_to(script) as road:
        first = await road.ask()
        assert (first.lost_as, first.body, len(first.heads)) == (None, body, 1)
        second = await road.ask()
        assert (second.lost_as, second.body) == (None, b"ok")
        assert road.server.connections == connections
        assert len(road.server.requests) == 2
        assert len(road.endpoint.idle) == 1


BAD: dict[str, tuple[Sequence[Step], FailurePhase, str]] = {
    "no HTTP": ([b"SSH-2.0-OpenSSH_9.6\r\n"], FailurePhase.FIRST_BYTE, "not HTTP"),
    "garbage": ([b"\x16\x03\x01\x00\xff" * 9], FailurePhase.FIRST_BYTE, "not HTTP"),
    "a broken head": ([b"HTTP/1.1 what\r\n\r\n"], FailurePhase.FIRST_BYTE, "not valid HTTP"),
    "a broken header": ([OK + b"no colon\r\n\r\n"], FailurePhase.FIRST_BYTE, "not valid HTTP"),
    "a folded header": ([OK + b"A: b\r\n c\r\n\r\n"], FailurePhase.FIRST_BYTE, "not valid HTTP"),
    "an endless head": ([OK, *[b"A: " + b"b" * 60_000 + b"\r\n"] * 5], FailurePhase.FIRST_BYTE, "longer than"),
    "a length and chunks": (
        [OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        FailurePhase.FIRST_BYTE,
        "not valid HTTP",
    ),
    "two lengths": ([OK + b"Content-Length: 2\r\n" * 2 + b"\r\nok"], FailurePhase.FIRST_BYTE, "not valid HTTP"),
    "a negative length": ([OK + b"Content-Length: -2\r\n\r\nok"], FailurePhase.FIRST_BYTE, "not valid HTTP"),
    "another encoding": (
        [OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
        FailurePhase.FIRST_BYTE,
        "Transfer-Encoding",
    ),
    "101": (
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
        FailurePhase.FIRST_BYTE,
        "switched protocols",
    ),
    "101 to nothing": ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], FailurePhase.FIRST_BYTE, ""),
    "the end, at once": (["close"], FailurePhase.FIRST_BYTE, "before an answer"),
    "a reset, at once": (["abort"], FailurePhase.FIRST_BYTE, "before an answer"),
    "half a head": ([TWO[:-2], "close"], FailurePhase.FIRST_BYTE, "before an answer"),
    "only a 100": ([b"HTTP/1.1 100 Continue\r\n\r\n", "close"], FailurePhase.FIRST_BYTE, "before an answer"),
    "half a body": ([TWO + b"o", "close"], FailurePhase.BODY, "connection was lost"),
    "half a body, reset": ([TWO, b"o", "abort"], FailurePhase.BODY, "connection was lost"),
    "chunks without an end": ([CHUNKED, b"2\r\nok\r\n", "close"], FailurePhase.BODY, "connection was lost"),
    "half a chunk": ([CHUNKED, b"2\r\no", "close"], FailurePhase.BODY, "connection was lost"),
    "half an end": ([CHUNKED, b"2\r\nok\r\n0\r\n", "close"], FailurePhase.BODY, "connection was lost"),
    "no chunk": ([CHUNKED, b"ok\r\n"], FailurePhase.BODY, "no size of a chunk"),
    "a chunk longer than it says": ([CHUNKED, b"2\r\nok!\r\n"], FailurePhase.BODY, "longer than it says"),
    "to the end, reset": ([OK + b"\r\nok", "abort"], FailurePhase.BODY, "connection was lost"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_broken_answer_is_a_failure_told_once_and_its_connection_is_gone(case: str) -> None:
    """In which phase, and why; the next request is answered on a new connection."""
    script, phase, reason = BAD[case]
    async with road_to([*script, "mute"]) as road:
        bad = await road.ask()
        assert bad.lost_as is not None
        assert (bad.lost_as.phase, bad.lost_as.timed_out, bad.lost_as.stale) == (phase, False, False)
        assert reason in bad.lost_as.reason
        await until(lambda: not road.endpoint.links)
        assert (await road.ask()).body == b"ok"


async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    """They would be taken for the answer to the next request."""
    async with road_to([TWO + b"ok", 0.01, TWO + b"no"]) as road:
        await road.ask()
        (link,) = road.endpoint.idle
        await until(lambda: link not in road.endpoint.idle)
        assert (await road.ask()).body == b"ok"
        assert road.server.connections == 2


async def test_an_idle_connection_that_the_server_closes_is_forgotten() -> None:
    """Servers do so after some seconds."""
    async with road_to([TWO + b"ok", "close"]) as road:
        await road.ask()
        await until(lambda: not road.endpoint.idle and not road.endpoint.links)
        assert (await road.ask()).body == b"ok"


async def test_a_request_into_a_connection_that_is_being_closed_is_stale_and_no_fault() -> None:
    """It had been answered on before, and not one byte came: whoever asked may ask again at once."""
    async with road_to([TWO + b"ok"], ["close"], [TWO[:5], "close"]) as road:
        await road.ask()
        stale = await road.ask()
        assert stale.lost_as is not None
        assert (stale.lost_as.phase, stale.lost_as.stale) == (FailurePhase.FIRST_BYTE, True)
        fresh = await road.ask()
        assert fresh.lost_as is not None
        assert not fresh.lost_as.stale


async def test_a_connection_that_waited_without_being_used_may_be_stale_too() -> None:
    """Nobody wanted it any more when it was there; the next request takes it, if it is still good."""
    async with road_to(["close"]) as road:
        road.wires.ask_anew(road.endpoint, Listener(), b"never sent", lambda: False)
        await until(lambda: len(road.endpoint.idle) == 1)
        stale = await road.ask()
        assert stale.lost_as is not None
        assert stale.lost_as.stale
        assert road.server.connections == 1


async def test_an_answer_before_all_of_the_request_was_read_is_taken_and_the_connection_is_not() -> None:
    """A replica refuses a large body half-way (413): what it has not read might be read as the next request."""
    body = b"body" + b" " * 8_000_000
    async with road_to([b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", "mute"]) as road:
        early = await road.ask(request=road.endpoint.request(b"POST", b"/v1/x", b"", body))
        assert (early.lost_as, early.body, early.heads[0].status) == (None, b"no", 413)
        assert (await road.ask()).body == b"ok"
        assert road.server.connections == 2


async def test_dropping_an_answer_closes_its_connection() -> None:
    """That is how an engine learns that nobody reads any more; the listener hears nothing after it."""
    async with road_to([CHUNKED, *[b"2\r\nok\r\n"] * 100, "mute"]) as road:
        listener = await road.ask(Listener(drop_at_head=True))
        await until(lambda: not road.server.open and not road.endpoint.links)
        assert (listener.body, listener.lost_as) == (b"", None)


async def test_idle_connections_are_closed_after_some_seconds() -> None:
    """Before the server does it."""
    async with road_to() as road:
        await road.ask()
        Wires.sweep_idle(road.endpoint, 3.9)
        assert len(road.endpoint.idle) == 1
        Wires.sweep_idle(road.endpoint, 3.9)
        assert not road.endpoint.idle
        await until(lambda: not road.server.open)


async def test_an_endpoint_that_is_closed_keeps_no_connection() -> None:
    """Neither those that are idle nor the one that is still answering."""
    async with road_to([TWO, 0.02, b"ok"]) as road:
        listener, request = Listener(), road.endpoint.request(b"POST", b"/", b"", b"body")
        road.wires.ask(road.endpoint, listener, request, lambda: True)
        await until(lambda: bool(listener.heads))
        road.endpoint.close()
        await listener.done.wait()
        assert (listener.body, road.endpoint.idle) == (b"ok", [])
        await until(lambda: not road.endpoint.links)


async def test_nobody_there_is_a_failure_to_connect() -> None:
    """Refused at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with road_to() as road:
        road.endpoint.port = port
        lost = (await road.ask()).lost_as
        assert lost is not None
        assert (lost.phase, lost.timed_out) == (FailurePhase.CONNECT, False)


async def test_a_connection_that_does_not_come_about_in_time_is_told() -> None:
    """A listener whose backlog is full answers nothing at all, as a VM that is gone."""
    async with road_to() as road:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            road.endpoint.port = deaf.getsockname()[1]
            crowd = [socket.socket() for _ in range(4)]
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(deaf.getsockname())
            try:
                road.wires.adopt(connect_s=0.1)
                asked = asyncio.create_task(road.ask())
                now_s = asyncio.get_running_loop().time
                while not asked.done():
                    road.wires.sweep(now_s())
                    await asyncio.sleep(0.01)
                lost = (await asked).lost_as
            finally:
                for each in crowd:
                    each.close()
        assert lost is not None
        assert (lost.phase, lost.timed_out) == (FailurePhase.CONNECT, True)
        assert "100ms" in lost.reason


async def test_tls_is_verified_and_streams_as_well(tmp_path: Path) -> None:
    """By the certificate that this very replica must have; kept alive as any other."""
    authority = Authority(tmp_path)
    shown = server_context(await authority.issue("localhost", "127.0.0.1"), tmp_path)
    script = [CHUNKED, b"2\r\nok\r\n", b"3\r\nyes\r\n0\r\n\r\n"]
    async with road_to(script, serving=shown, trust=authority.trust) as road:
        assert (await road.ask()).body == b"okyes"
        assert (await road.ask()).body == b"ok"
        assert road.server.connections == 1


async def test_a_server_with_another_certificate_is_told_nothing(tmp_path: Path) -> None:
    """Whoever has taken over the address does not get a request."""
    authority = Authority(tmp_path)
    shown = server_context(await authority.issue("somebody-else", "127.0.0.1"), tmp_path)
    async with road_to(serving=shown, trust=authority.trust) as road:
        lost = (await road.ask()).lost_as
        assert lost is not None
        assert lost.phase is FailurePhase.CONNECT
        assert not road.server.requests


class Tap(asyncio.Transport):
    """A transport that only knows whether it is being read from."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


@given(st.lists(st.sampled_from(["pause", "resume", "hold", "let_go"])))
def test_a_stream_is_read_on_only_where_neither_its_client_nor_a_crowd_stands_in_the_way(steps: list[str]) -> None:
    """Else a client that is slower than the replica would have its answer pile up here."""
    target = RouteTarget(ReplicaId("localhost"), "http://127.0.0.1:1", ZoneId("local/east/a"), Market.SPOT)
    trust = ssl.create_default_context
    tap, slow, held = Tap(), False, False
    link = Link(Endpoint.of(target, trust(), trust), Outbox(lambda work: None))
    link.connection_made(tap)
    for step in steps:
        getattr(link, step)()
        slow = step == "pause" or (slow and step != "resume")
        held = step == "hold" or (held and step != "let_go")
        assert tap.reads == (not slow and not held)
