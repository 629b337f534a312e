"""The way to a replica: connections that are kept open, each carrying one request and its answer at a time.

A protocol class and nothing on top: what a replica sends is handed to its :class:`Sink` in the very call in which
it arrived. Heads of answers are parsed by llhttp (:mod:`head`); of a chunked body only the sizes are read.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import httptools
import structlog

from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.chunked import SIZES, ChunkError, Dechunker, whole_chunks
from hedgeserve.proxy.head import Head, parse_head
from hedgeserve.proxy.outbox import Outbox
from hedgeserve.proxy.pipe import Line
from hedgeserve.proxy.poll import Dial, Poll
from hedgeserve.replica import RouteTarget
from hedgeserve.units import format_duration

_log = structlog.get_logger(__name__)

# Shorter than the 5 s after which uvicorn (vLLM's server) closes an idle connection: ours must go first, or a
# request is now and then sent into one that is being closed.
_IDLE_CONNECTION_S = 4.0
_LONGEST_HEAD_BYTES = 256 * 2**10
_SENT_AT_ONCE_BYTES = 16 * 2**10
# What the next byte of a connection belongs to; plain numbers, for they are looked at for every token.
_IDLE: Final = 0
_HEAD: Final = 1
_LENGTH: Final = 2
_CHUNKED: Final = 3
_TO_THE_END: Final = 4
_PORTS = {"http": 80, "https": 443}


class Sink(Protocol):
    """Who asked: hears of its answer as it comes, and of nothing after :meth:`ended` or :meth:`lost`."""

    def connected(self, link: "Link") -> None:
        """The request is on its way, on this connection."""

    def answered(self, head: Head) -> None:
        """The answer begins."""

    def answered_whole(self, head: Head, body: bytes) -> None:
        """All of an answer at once, in the place of the calls that follow."""

    def received(self, payload: bytes, framed: bytes | None) -> None:
        """More of its body; ``framed`` is the same as whole chunks, where it came as such."""

    def received_all(self, payloads: list[bytes], framed: bytes) -> None:
        """Several chunks of it at once; ``framed`` is all of them."""

    def fed(self, out: bytes) -> None:
        """A chunk has become this on the short way; to be sent on."""

    def ended(self) -> None:
        """The body is whole."""

    def lost(self, phase: FailurePhase, reason: str, *, timed_out: bool = False, stale: bool = False) -> None:
        """There is no (more of an) answer. ``stale``: on a connection that had been idle, without a byte."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """A replica's address, what each request to it begins with, and the connections to it that are idle."""

    host: str
    port: int
    prefix: bytes
    fixed_lines: bytes
    tls: ssl.SSLContext | None
    tls_name: str | None
    address: tuple[int, Any] | None = None
    """Family and address of a socket; None where it is a name, which must be looked up."""
    idle: list["Link"] = field(default_factory=list)
    links: set["Link"] = field(default_factory=set)
    past_beats: int = 0
    """Beats of answers that are over, whatever became of their links: with those under way they only ever grow."""
    closed: bool = False

    @classmethod
    def of(
        cls, target: RouteTarget, own_trust: ssl.SSLContext, public_trust: Callable[[], ssl.SSLContext]
    ) -> "Endpoint":
        """Where this target is."""
        url = urlsplit(target.url)
        secure = url.scheme == "https"
        lines = b"Host: %b\r\n" % url.netloc.rpartition("@")[2].encode(
            "idna" if not url.netloc.isascii() else "ascii"
        )
        if target.api_key is not None:
            lines += b"Authorization: Bearer %b\r\n" % target.api_key.encode()
        host, port = url.hostname or "", url.port or _PORTS.get(url.scheme, 80)
        return cls(
            host=host,
            port=port,
            address=_address_of(host, port),
            prefix=url.path.rstrip("/").encode(),
            fixed_lines=lines,
            tls=(own_trust if target.own_tls else public_trust()) if secure else None,
            tls_name=(target.id if target.own_tls else url.hostname) if secure else None,
        )

    def request(self, method: bytes, path: bytes, lines: bytes, body: bytes) -> bytes:
        """A whole request to it."""
        return b"%b %b%b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
            method,
            self.prefix,
            path,
            self.fixed_lines,
            lines,
            len(body),
            body,
        )

    def close(self) -> None:
        """Open no more connections, and close those that are idle."""
        self.closed = True
        for link in tuple(self.idle):
            link.abort()
        self.idle.clear()


class Link(asyncio.Protocol):
    """One connection to a replica."""

    __slots__ = (
        "_begun", "_chunks", "_close", "_feed", "_fresh", "_head", "_held", "_large", "_left", "_line", "_outbox",
        "_sink", "_slow", "_state", "_to", "_transport", "_whole", "beats", "endpoint", "idle_sweeps",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, outbox: Outbox) -> None:
        self.endpoint = endpoint
        self._outbox = outbox
        self.idle_sweeps = 0
        self.beats = 0
        """How often bytes of the present answer's body have come."""
        self._feed: Callable[[bytes], bytes] | None = None
        self._to: Line | None = None
        # Of the last chunk that came alone: its size line, and its length in all.
        self._line, self._whole = b"", 0
        self._sink: Sink | None = None
        self._state = _IDLE
        self._head = b""
        self._left = 0
        self._close = False
        self._begun = False
        self._large = False
        self._fresh = True
        self._slow = self._held = False
        self._chunks = Dechunker()

    # What may be asked of it

    def ask(self, sink: Sink, request: bytes) -> None:
        """Send a request; its sink hears of the answer."""
        self._sink = sink
        self._state = _HEAD
        self._head = b""
        self._close = self._begun = False
        self._large = len(request) > _SENT_AT_ONCE_BYTES
        self.endpoint.past_beats += self.beats
        self.beats = 0
        self._outbox.write(self._transport, request)
        sink.connected(self)

    def open_short_way(self, feed: Callable[[bytes], bytes], to: Line) -> None:
        """For the rest of this answer: what ``feed`` leaves as it is goes there as it came, anything else to the
        sink."""
        self._feed, self._to = feed, to

    def spare(self) -> None:
        """Nobody wants it after all: it is there for the next request, which may find it closed by then."""
        self._fresh = False
        self.endpoint.idle.append(self)

    def drop(self) -> None:
        """Nobody wants the answer any more: close at once, which is how an engine learns of it."""
        self._leave()
        self.abort()

    def _leave(self) -> "Sink | None":
        sink, self._sink = self._sink, None
        self._feed = self._to = None
        return sink

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _is_unsent(self) -> bool:
        self._outbox.flush()
        return self._transport.get_write_buffer_size() > 0

    def _pass_on(self, data: bytes) -> None:
        to = self._to
        if to is not None:
            self._outbox.write(to, data)

    def pause(self) -> None:
        """Read no more for now: the client is slower than the replica."""
        self._slow = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._slow = False
        if not self._held and not self._transport.is_closing():
            self._transport.resume_reading()

    def hold(self) -> None:
        """Read no more for a moment: others come first (crowd.Stream)."""
        self._held = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def let_go(self) -> None:
        """Their turn is over."""
        if self._held:
            self._held = False
            if not self._slow and not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def closing(self) -> bool:
        """Whether it can no longer be used."""
        return self._transport.is_closing()

    # What asyncio tells it

    def connection_made(self, transport: asyncio.BaseTransport | Line) -> None:
        """The connection is there."""
        self._transport = cast(Line, transport)
        self.endpoint.links.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: on the path of every token."""
        feed = self._feed
        if (
            feed is not None
            and len(data) == self._whole
            and data.startswith(self._line)
            and data.endswith(b"\r\n")
            and self._chunks.aligned
        ):
            # One chunk of the size of the last one: nearly every token.
            self.beats += 1
            self._outbox.tokens += 1
            payload = data[len(self._line) : -2]
            out = feed(payload)
            if out is payload:
                self._pass_on(data)
            elif self._sink is not None:
                self._sink.fed(out)
        elif self._state == _CHUNKED:
            self.beats += 1
            if self._chunks.aligned:
                at = data.find(b"\r\n", 0, 6)
                size = SIZES.get(data[:at])
                if size is not None and at + size + 4 == len(data) and data[-2:] == b"\r\n":
                    self._line, self._whole = data[: at + 2], len(data)
                    payload = data[at + 2 : -2]
                    self._outbox.tokens += 1
                    if feed is not None:
                        out = feed(payload)
                        if out is payload:
                            self._pass_on(data)
                        elif self._sink is not None:
                            self._sink.fed(out)
                        return
                    if self._sink is not None:
                        self._sink.received(payload, data)
                        return
            self._receive_chunks(data)
        elif self._sink is None:
            self.abort()  # bytes that nobody asked for
        elif self._state == _HEAD:
            self._receive_head(data)
        elif self._state == _LENGTH:
            self.beats += 1
            self._receive_counted(data)
        else:
            self.beats += 1
            self._sink.received(data, None)

    def eof_received(self) -> bool:
        """The replica has closed its side."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        endpoint, sink = self.endpoint, self._leave()
        endpoint.links.discard(self)
        endpoint.past_beats += self.beats
        if self in endpoint.idle:
            endpoint.idle.remove(self)
        if sink is None:
            return
        if self._state == _TO_THE_END and error is None:
            sink.ended()
            return
        reason = "the connection was lost" + (f": {error}" if error is not None and str(error) else "")
        if self._state == _HEAD:
            stale = not self._fresh and not self._begun
            sink.lost(FailurePhase.FIRST_BYTE, f"{reason} before an answer", stale=stale)
        else:
            sink.lost(FailurePhase.BODY, reason)

    # How answers are read

    def _receive_head(self, data: bytes) -> None:
        self._begun = True
        self._head += data
        while self._state == _HEAD:
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > _LONGEST_HEAD_BYTES:
                    self._broken(f"its headers are longer than {_LONGEST_HEAD_BYTES} bytes")
                elif not self._head.startswith(b"HTTP/"[: len(self._head)]):
                    self._broken("its answer is not HTTP")
                return
            head, self._head = self._head[: end + 4], self._head[end + 4 :]
            try:
                parsed = parse_head(head)
            except httptools.HttpParserUpgrade:
                self._broken("it switched protocols unasked")
                return
            except httptools.HttpParserError as error:
                self._broken(f"its answer is not valid HTTP: {error}")
                return
            if parsed.status >= 200:
                self._begin_body(parsed)

    def _begin_body(self, head: Head) -> None:
        rest, self._head = self._head, b""
        # Answered before it was read: whether the rest of the request is ever read, nobody knows.
        self._close = not head.keeps or (self._large and self._is_unsent())
        if head.status in (204, 304):
            self._state, self._left = _LENGTH, 0
        elif head.chunked:
            self._state, self._chunks = _CHUNKED, Dechunker()
        elif head.length is not None:
            self._state, self._left = _LENGTH, head.length
        else:
            self._state, self._close = _TO_THE_END, True
        sink = self._sink
        assert sink is not None
        if self._state == _LENGTH and len(rest) == self._left and not self._close and not self.endpoint.closed:
            # All of it at once, as nearly every answer in one piece comes.
            self._sink = None
            self._state = _IDLE
            self._fresh = False
            self.idle_sweeps = 0
            self.endpoint.idle.append(self)
            sink.answered_whole(head, rest)
            return
        sink.answered(head)
        if self._sink is not sink:
            return  # it wants no more of this
        if self._state == _LENGTH and not self._left:
            self._end(surplus=rest)
        elif rest:
            self.data_received(rest)

    def _receive_counted(self, data: bytes) -> None:
        sink = self._sink
        assert sink is not None
        surplus = data[self._left :]
        taken = data[: self._left] if surplus else data
        self._left -= len(taken)
        sink.received(taken, None)
        if not self._left and self._sink is sink:
            self._end(surplus=surplus)

    def _receive_chunks(self, data: bytes) -> None:
        """Whatever is not one whole chunk: several of them, as a busy loop finds them, parts of one, the end."""
        sink = self._sink
        if sink is None:
            self.abort()
            return
        chunks = self._chunks
        if chunks.aligned:
            pieces, taken = whole_chunks(data)
            if pieces:
                sink.received_all(pieces, data[:taken])
                data = data[taken:]
                if not data or self._sink is not sink:
                    return
        try:
            payload = chunks.feed(data)
        except ChunkError as error:
            self._broken(f"its answer is not valid HTTP: {error}")
            return
        if payload:
            sink.received(payload, None)
        if chunks.ended and self._sink is sink:
            self._end(surplus=chunks.rest)

    def _end(self, *, surplus: bytes) -> None:
        """An answer is whole: the connection is free for the next one before its sink is told."""
        sink = self._leave()
        self._state = _IDLE
        self._fresh = False
        self.idle_sweeps = 0
        if surplus or self._close or self.endpoint.closed:
            self._transport.close()
        else:
            self._slow = self._held = False
            self._transport.resume_reading()
            self.endpoint.idle.append(self)
        assert sink is not None
        sink.ended()

    def _broken(self, reason: str) -> None:
        sink = self._leave()
        phase = FailurePhase.FIRST_BYTE if self._state == _HEAD else FailurePhase.BODY
        self.abort()
        if sink is not None:
            sink.lost(phase, reason)


class _Call:
    """A connection that is being made for one request."""

    __slots__ = ("_link", "_request", "_sink", "_wanted", "_wires")

    def __init__(self, wires: "Wires", link: Link, sink: Sink, request: bytes, wanted: Callable[[], bool]) -> None:
        self._wires = wires
        self._link = link
        self._sink = sink
        self._request = request
        self._wanted = wanted

    def connected(self) -> None:
        """Send the request, if it is still to be sent."""
        self._wires.answered(self)
        if self._wanted():
            self._link.ask(self._sink, self._request)
        elif self._link.endpoint.closed:
            self._link.abort()
        else:
            self._link.spare()

    def refused(self, error: OSError) -> None:
        """There is no connection."""
        self._wires.answered(self)
        if self._wanted():
            reason = f"no connection: {str(error) or type(error).__name__}"
            self._sink.lost(FailurePhase.CONNECT, reason)

    def late(self, connect_s: float) -> None:
        """There was none in its time."""
        if self._wanted():
            reason = f"no connection within {format_duration(connect_s)}"
            self._sink.lost(FailurePhase.CONNECT, reason, timed_out=True)


class Wires:
    """Connects to replicas; ``outbox`` sends what they are asked, ``poll`` watches plain connections.

    ``connect_s`` is the time for a connection, kept to by :meth:`sweep`. With TLS, to names, and without a
    ``poll`` connections are asyncio's, each made by a task that ``spawn`` owns.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        connect_s: float,
        now_s: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        poll: Poll | None = None,
    ) -> None:
        self._outbox = outbox
        self._connect_s = connect_s
        self._now_s = now_s
        self._spawn = spawn
        self._poll = poll
        self._connecting: dict[asyncio.Task[Any], float] = {}
        self._dialling: dict[_Call, tuple[Dial, float]] = {}

    def adopt(self, *, connect_s: float) -> None:
        """Another time for connections from now on."""
        self._connect_s = connect_s

    def ask(self, endpoint: Endpoint, sink: Sink, request: bytes, wanted: Callable[[], bool]) -> None:
        """Send a request on an idle connection, or on a new one unless it is no longer ``wanted`` by then."""
        if not self.ask_idle(endpoint, sink, request):
            self.ask_anew(endpoint, sink, request, wanted)

    @staticmethod
    def ask_idle(endpoint: Endpoint, sink: Sink, request: bytes) -> bool:
        """Send a request on an idle connection; False: there is none."""
        idle = endpoint.idle
        while idle:
            link = idle.pop()
            if not link.closing:
                link.ask(sink, request)
                return True
        return False

    def ask_anew(self, endpoint: Endpoint, sink: Sink, request: bytes, wanted: Callable[[], bool]) -> None:
        """Send a request on a new connection, unless it is no longer ``wanted`` by then."""
        address, poll = endpoint.address, self._poll
        if poll is not None and address is not None and endpoint.tls is None:
            link = Link(endpoint, self._outbox)
            call = _Call(self, link, sink, request, wanted)
            dial = poll.dial(address[0], address[1], link, call)
            if dial.waiting:
                self._dialling[call] = dial, self._now_s() + self._connect_s
            return
        self._spawn(self._connect(endpoint, sink, request, wanted), "connect to a replica")

    def answered(self, call: _Call) -> None:
        """A connection is there, or will never be."""
        self._dialling.pop(call, None)

    async def _connect(self, endpoint: Endpoint, sink: Sink, request: bytes, wanted: Callable[[], bool]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connecting[task] = self._now_s() + self._connect_s
        try:
            _, link = await asyncio.get_running_loop().create_connection(
                lambda: Link(endpoint, self._outbox),
                endpoint.host,
                endpoint.port,
                ssl=endpoint.tls,
                server_hostname=endpoint.tls_name,
            )
        except asyncio.CancelledError:
            if task in self._connecting:  # not for its time: the service ends
                raise
            if wanted():
                reason = f"no connection within {format_duration(self._connect_s)}"
                sink.lost(FailurePhase.CONNECT, reason, timed_out=True)
            return
        except OSError as error:  # ssl.SSLError is one
            if wanted():
                sink.lost(FailurePhase.CONNECT, f"no connection: {str(error) or type(error).__name__}")
            return
        finally:
            self._connecting.pop(task, None)
        if wanted():
            link.ask(sink, request)
        elif endpoint.closed:
            link.abort()
        else:
            link.spare()

    def sweep(self, now_s: float) -> None:
        """Give up what has not come to a connection in its time; to be called some ten times a second.

        One clock for all of them: a timer for each would cost as much as the connection.
        """
        for task, due_s in tuple(self._connecting.items()):
            if due_s <= now_s:
                del self._connecting[task]
                task.cancel()
        for call, (dial, due_s) in tuple(self._dialling.items()):
            if due_s <= now_s:
                del self._dialling[call]
                dial.abandon()
                try:
                    call.late(self._connect_s)
                except Exception:  # one request's trouble must not stop the clock for the others
                    _log.exception("what wanted a connection failed when there was none in time")

    @staticmethod
    def sweep_idle(endpoint: Endpoint, every_s: float) -> None:
        """Close what has been idle for 4 s; to be called regularly."""
        for link in tuple(endpoint.idle):
            link.idle_sweeps += 1
            if link.idle_sweeps * every_s >= _IDLE_CONNECTION_S:
                endpoint.idle.remove(link)
                link.abort()


def _address_of(host: str, port: int) -> tuple[int, Any] | None:
    """What to connect to, where that needs no looking up."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    family, _, _, _, address = found[0]
    return family, address
