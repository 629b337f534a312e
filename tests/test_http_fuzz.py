"""Mangled requests, cut anywhere, in any order: nothing breaks, and no request is seen that was not sent.

The judge is a second llhttp that reads the same bytes in one piece. ``HEDGESERVE_FUZZ_SECONDS`` is how long each
of the two searches may take, and lets them differ from run to run; without it they are short and always the same.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import httptools
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from hedgeserve.proxy.edge import Edge
from hedgeserve.proxy.outbox import Outbox
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.request import Incoming, KnownHeads
from hedgeserve.proxy.routes import FORWARDED
from tests.callers import Reading, Stage, stage
from tests.upstreams import Engine, until

SECONDS = float(os.environ.get("HEDGESERVE_FUZZ_SECONDS", "0"))
FEW, MANY = 40, 200
PATH = b"/v1/embeddings"


def post(body: bytes, lines: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST %b HTTP/%b\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (
        PATH,
        version,
        lines,
        len(body),
        body,
    )


CHUNKED = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" % PATH
REQUESTS = [
    post(b'{"user": "1"}'),
    post(b'{"user": "2"}'),
    post(b"{}", b"X-Request-Id: r-3\r\nExpect: 100-continue\r\n"),
    post(b"{"),
    post(b"{}", b"Connection: close\r\n"),
    post(b'{"user": "4"}', version=b"1.0"),
    post(b'{"user": "' + b"u" * 5000 + b'"}'),
    post(b"{}", b"X-Priority: high\r\nX-Deadline-Ms: 10000\r\nConnection: keep-alive, X-Priority\r\n"),
    post(b"{}", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    post(b"{}").replace(PATH, b"http://elsewhere" + PATH),
    CHUNKED + b'\r\n5\r\n{"use\r\n8;a=b\r\nr": "5"}\r\n0\r\n\r\n',
    CHUNKED + b"\r\n2\r\n{}\r\n0\r\nX-T: u\r\nHost: y\r\n\r\n",
    CHUNKED + b"Expect: 100-continue\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
]
MORSELS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"1", b"f", b"-", b"+", b"\xff", b"{", b"}",
    b"\r\n\r\n", b"0\r\n\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Host: y\r\n",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"Expect: x\r\n", b" chunked", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"POST ", b"Upgrade: x\r\n", REQUESTS[0],
    b"x" * 3000,
]  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A good request, more or less."""
    data = draw(st.sampled_from(REQUESTS))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["insert", "insert", "replace", "drop", "repeat", "case", "flip"])):
            case "insert":
                data = data[:at] + draw(st.sampled_from(MORSELS)) + data[at:]
            case "replace":
                data = data[:at] + draw(st.sampled_from(MORSELS)) + data[at + draw(st.integers(1, 20)) :]
            case "drop":
                data = data[:at] + data[at + draw(st.integers(1, 20)) :]
            case "repeat":
                data = data[:at] + data[max(0, at - draw(st.integers(1, 60))) :]
            case "case":
                data = data[:at] + data[at : at + 10].swapcase() + data[at + 10 :]
            case _:
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """What a client sends, in the pieces in which it arrives; none is empty."""
    data = b"".join(draw(st.lists(mangled(), min_size=1, max_size=5)))
    marks = sorted({place % (len(data) + 1) for place in draw(st.lists(st.integers(0, 6000), max_size=8))})
    pieces = [data[begin:end] for begin, end in zip([0, *marks], [*marks, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


@dataclass
class Oracle:
    """What llhttp finds when it gets all of the bytes in one piece: the requests that are whole."""

    whole: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    begun: int = 0
    target: bytes = b""
    body: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> "Oracle":
        oracle = cls()
        oracle.parser = httptools.HttpRequestParser(oracle)
        try:
            oracle.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            pass
        return oracle

    def on_message_begin(self) -> None:
        self.begun += 1
        self.target = self.body = b""

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole.append((self.parser.get_method().decode(), self.target, self.body))

    parser: httptools.HttpRequestParser = field(init=False)

    @property
    def posted(self) -> list[bytes]:
        """The bodies of those that were POSTed."""
        return [body for method, _, body in self.whole if method == "POST"]

    @property
    def handed_over(self) -> bool:
        """Whether there is any that is not for replicas."""
        return any(
            method != "POST" or target.partition(b"?")[0] not in (PATH, b"http://elsewhere" + PATH)
            for method, target, _ in self.whole
        )


def is_subsequence(few: list[bytes], many: list[bytes]) -> bool:
    rest = iter(many)
    return all(each in rest for each in few)


def search(one: Callable[[list[bytes]], None]) -> None:
    """Try many conversations: the same few each time, or others until the time is over."""
    until_s = time.monotonic() + SECONDS
    tried = 0

    @settings(
        max_examples=FEW if SECONDS == 0 else MANY,
        derandomize=SECONDS == 0,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(conversations())
    def attempt(pieces: list[bytes]) -> None:
        nonlocal tried
        tried += 1
        one(pieces)

    attempt()
    number = int(time.time())
    while time.monotonic() < until_s:
        number += 1
        seed(number)(attempt)()
    print(f"{tried} conversations tried")


# On a real socket


async def talk(it: Stage, pieces: list[bytes], *, leave: bool = True) -> tuple[bytes, bool]:
    """What comes back, and whether the connection was reset before its end was read."""
    caller = await it.call()
    it.callers.clear()
    told = b""
    await until(lambda: bool(it.edges))
    try:
        for piece in pieces:
            caller.say(piece)
            for _ in range(3):
                await asyncio.sleep(0)
        await until(lambda: it.house.balancer._reception.active == 0)
        if leave:
            caller.writer.write_eof()
        async with asyncio.timeout(5):
            while data := await caller.reader.read(2**16):
                told += data
        return told, False
    except OSError:
        return told, True
    finally:
        caller.writer.close()
        with suppress(OSError):
            await caller.writer.wait_closed()


async def play(it: Stage, engine: Engine, pieces: list[bytes]) -> None:
    engine.seen.clear()
    oracle = Oracle.of(b"".join(pieces))
    told, reset = await talk(it, pieces)
    assert oracle.handed_over or not reset  # the other half of the house does not wait for what else is sent
    assert is_subsequence([seen.body for seen in engine.seen], oracle.posted)
    assert all(seen.path.startswith(PATH.decode()) for seen in engine.seen)
    reading = Reading()
    if not any(method == "HEAD" for method, _, _ in oracle.whole):
        reading.feed(told)  # raises where it is no HTTP
    assert len([answer for answer in reading.answers if answer.status >= 200]) <= oracle.begun + 1
    for answer in reading.answers:
        assert answer.status in (100, 200) or answer.code
    well, reset = await talk(it, [REQUESTS[4]], leave=False)
    assert well.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not reset
    assert not it.troubles


def test_no_conversation_breaks_the_balancer_or_makes_an_engine_see_what_was_not_sent() -> None:
    """On a real socket, with a real engine behind it; after each, a good request is answered."""
    engine = Engine("e")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        it = runner.run(
            stack.enter_async_context(stage(engine, limits={"max_head": "2 KiB", "max_body": "4 KiB"}))
        )
        try:
            search(lambda pieces: runner.run(play(it, engine, pieces)))
        finally:
            runner.run(stack.aclose())


# On no socket at all, to look closer


class Line(asyncio.Transport):
    """A transport that insists on being used as one may be."""

    def __init__(self) -> None:
        super().__init__()
        self.told = b""
        self.eof = self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert data
        assert not self.eof
        assert not self.closed
        self.told += data

    def write_eof(self) -> None:
        assert not self.eof
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Desk:
    """A host that answers each request on the spot, or when it is told to."""

    def __init__(self, *, at_once: bool, heads: KnownHeads) -> None:
        self.closing = False
        self.date_line = b""
        self.heads = heads
        self.later: list[Callable[[], None]] = []
        self.outbox = Outbox(self.later.append)
        self.bounds = (2048, 4096, 1.0)
        self.at_once = at_once
        self.taken: list[bytes] = []
        self.refused = 0
        self.handed = 0
        self.waiting: list[tuple[Edge, Incoming]] = []
        self.edges: set[Edge] = set()

    def is_ours(self, method: bytes, path: str) -> bool:
        return method == b"POST" and path in FORWARDED

    def judge(self, incoming: Incoming) -> Refused | None:
        return None

    def take(self, incoming: Incoming, client: Edge, request_id: str) -> "Desk | None":
        assert incoming.whole
        self.taken.append(b"".join(incoming.body))
        if self.at_once:
            client.whole(200, b"", b"ok")
            return None
        self.waiting.append((client, incoming))
        return self

    def answer(self, incoming: Incoming, client: Edge, request_id: str) -> None:
        self.handed += 1
        client.whole(200, b"", b"ok")

    def told(self, incoming: Incoming | None, code: Code, request_id: str) -> None:
        assert code.status >= 400
        self.refused += 1

    def arrived(self, edge: Edge) -> None:
        self.edges.add(edge)

    def left(self, edge: Edge) -> None:
        self.edges.discard(edge)

    def end_turn(self) -> None:
        """What an event loop does when it has read what there was."""
        for work in self.later:
            work()
        self.later.clear()

    def answer_next(self) -> None:
        """The next of those that wait."""
        client, incoming = self.waiting.pop(0)
        if incoming.http_10:  # whose answers would have to end with the connection
            client.whole(200, b"", b"ok")
            return
        client.begin(200, b"")
        client.send(b"ok")
        client.end()

    def abandon(self) -> None:
        pass

    pause = resume = abandon


def examine(pieces: list[bytes], heads: KnownHeads, *, at_once: bool, busy: int, turn: int) -> None:
    """``busy``: how many pieces come before a waiting request is answered, ``turn``: before the loop's turn ends.
    ``heads``: what others have said."""
    desk, line = Desk(at_once=at_once, heads=heads), Line()
    edge = Edge(desk, lambda: 0.0)
    edge.connection_made(line)
    for number, piece in enumerate(pieces):
        if line.closed:
            break
        edge.data_received(piece)
        if desk.waiting and number % busy == 0:
            desk.answer_next()
        if number % turn == 0:
            desk.end_turn()
    while desk.waiting:
        desk.answer_next()
    desk.end_turn()
    oracle = Oracle.of(b"".join(pieces))
    assert is_subsequence(desk.taken, oracle.posted)
    assert desk.refused <= oracle.begun + 1
    reading = Reading()
    reading.feed(line.told)
    answers = [answer for answer in reading.answers if answer.status >= 200]
    assert len(answers) == len(desk.taken) + desk.refused + desk.handed
    assert not any(answer.closes for answer in answers[:-1])
    if line.closed or line.eof:
        assert answers[-1].closes or not answers
    else:  # nothing that was whole is forgotten
        assert len(answers) == len(oracle.whole)
        assert edge._leaving is False


def test_no_request_is_lost_invented_or_answered_twice_however_the_bytes_arrive() -> None:
    """Answered at once or late, one after the other, each once; the same head again is no exception."""

    def one(pieces: list[bytes]) -> None:
        again = [b"".join(pieces)] * 2
        heads = KnownHeads()
        for conversation in (pieces, [b"".join(pieces)], again):
            examine(conversation, heads, at_once=True, busy=1, turn=1)
            examine(conversation, heads, at_once=False, busy=1, turn=2)
            examine(conversation, heads, at_once=False, busy=3, turn=1)

    search(one)
