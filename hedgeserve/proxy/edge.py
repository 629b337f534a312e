"""The client's side: HTTP/1.1 connections, requests in, answers out as they come.

Every byte of a request is parsed by llhttp, strictly; nothing here reads HTTP by hand, so that no two readings of
one request can differ (RFC 9112, section 11.2: request smuggling). Requests that are sent ahead (pipelined) wait
their turn; a client that sends faster, or reads slower, than can be served is not read from, or not served, until
it has caught up. Closing, also of its sending half only, is leaving: what runs for a client ends with that.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from hedgeserve.proxy.chunked import END, chunk
from hedgeserve.proxy.headers import lines_of, request_id
from hedgeserve.proxy.incoming import too_large, too_slow
from hedgeserve.proxy.outbox import Outbox
from hedgeserve.proxy.pipe import Line
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.request import Incoming, KnownHeads, not_http
from hedgeserve.units import format_bytes, format_duration

_IDLE_CLIENT_S = 75.0
_BODY_STALL_S = 30.0
_WHOLE_BODY_S = 900.0
"""However it trickles; what takes longer had better be sent again over a better line."""
_LONGEST_QUESTION_BYTES = 64 * 2**10
"""Of the body of a request that is not for replicas: nothing there asks for one, and no key stands before it."""
_LINGER_S = 2.0
_FEW_AHEAD = 8
_SMALL_BYTES = 64 * 2**10
_MOST_AT_ONCE = 64
_JSON_LINE = b"Content-Type: application/json\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {
    (version, int(status)): b"HTTP/%b %d %b\r\n" % (version, status, status.phrase.encode())
    for version in (b"1.0", b"1.1")
    for status in HTTPStatus
}


class Running(Protocol):
    """What an answer is being made by."""

    def abandon(self) -> None:
        """The client has left."""

    def pause(self) -> None:
        """The client does not keep up."""

    def resume(self) -> None:
        """It does again."""


class Host(Protocol):
    """What connections belong to."""

    closing: bool
    """Whether answers are to be the last on their connections."""
    date_line: bytes
    heads: KnownHeads
    outbox: Outbox
    bounds: tuple[int, int, float]
    """The longest head and body, in bytes, and the time for a head, of requests that begin now."""

    def is_ours(self, method: bytes, path: str) -> bool:
        """Whether such a request is one for replicas; any other is answered by :meth:`answer`."""

    def judge(self, incoming: Incoming) -> Refused | None:
        """What stands in the way of a request, as far as its head tells."""

    def take(self, incoming: Incoming, client: "Edge", request_id: str) -> Running | None:
        """Begin to answer a whole request; None where it has been answered already."""

    def answer(self, incoming: Incoming, client: "Edge", request_id: str) -> None:
        """Answer a whole request that is not for replicas."""

    def told(self, incoming: Incoming | None, code: Code, request_id: str) -> None:
        """A request was answered here, with an error."""

    def arrived(self, edge: "Edge") -> None:
        """A connection is there."""

    def left(self, edge: "Edge") -> None:
        """It is gone."""


class Edge(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_ahead", "_answering", "_at_once", "_before", "_begun", "_body_by_s", "_chunked", "_coming", "_complete",
        "_due_s", "_full", "_head_bytes", "_host", "_leaving", "_limits", "_now_s", "_outbox", "_parser",
        "_request_id", "_running", "_transport", "_unread_bytes",
    )  # fmt: skip

    def __init__(self, host: Host, now_s: Callable[[], float]) -> None:
        self._host = host
        self._outbox = host.outbox
        self._now_s = now_s
        self._limits = host.bounds
        self._parser: httptools.HttpRequestParser | None = None  # most connections say what is known already
        self._coming: Incoming | None = None
        self._answering: Incoming | None = None
        self._ahead: deque[Incoming] | None = None  # few send requests ahead
        self._running: Running | None = None
        self._request_id = ""
        self._head_bytes = 0
        self._at_once = 0
        self._before = b""
        self._complete: Incoming | None = None
        self._begun = False
        self._chunked = False
        self._full = False
        self._leaving = False  # nothing more is read as requests; what there is already is answered still
        self._unread_bytes = 0
        self._due_s = now_s() + _IDLE_CLIENT_S
        self._body_by_s = self._due_s

    # What asyncio tells it

    def connection_made(self, transport: asyncio.BaseTransport | Line) -> None:
        """A client is here."""
        self._transport = cast(Line, transport)
        self._host.arrived(self)

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._host.left(self)
        self._leaving = True
        running, self._running = self._running, None
        self._answering = None
        self._ahead = None
        self._parser = None  # it knows us: neither would be freed before the garbage collector came by
        if running is not None:
            running.abandon()

    def eof_received(self) -> bool:
        """It says that it sends no more: it is leaving."""
        return False

    def pause_writing(self) -> None:
        """It does not keep up."""
        self._full = True
        if self._running is not None:
            self._running.pause()
        else:  # it asks without reading the answers
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._full = False
        if not self._ahead and not self._transport.is_closing():
            self._transport.resume_reading()
        if self._running is not None:
            self._running.resume()
        elif self._answering is not None:  # it was to be handed over, with nothing of ours in the way
            self._begin(self._answering)

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._leaving:
            return
        if self._full and self._answering is None:
            self._transport.pause_reading()
        fresh = self._coming is None and self._answering is None
        if fresh and self._begin_known(data):
            return
        self._head_bytes += len(data)
        self._at_once = 0
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request says so too, and is refused for it
        except httptools.HttpParserCallbackError:
            raise  # a mistake of ours, not of the client
        except httptools.HttpParserError as error:
            if not self._leaving:  # else it has been refused already, for another reason
                self._unreadable(error)
            return
        complete, self._complete = self._complete, None
        if fresh and complete is not None:
            self._host.heads.remember(complete, data)
        coming = self._coming
        if coming is not None and not self._leaving:
            if not coming.path:
                if self._head_bytes > self._limits[0]:
                    self._refuse_coming(self._headers_too_long())
            elif coming.chunked and self._head_bytes - self._limits[0] > coming.most_wire_bytes:
                self._refuse_coming(not_http("its chunks are of extensions and trailers more than of a body"))
        ahead = self._ahead
        if ahead and not self._leaving and (len(ahead) >= _FEW_AHEAD or ahead[-1].body_bytes > _SMALL_BYTES):
            self._transport.pause_reading()  # not before: whoever is not read from cannot be seen to leave

    # What llhttp finds

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._leaving:
            return
        self._coming = Incoming()
        self._limits = self._host.bounds
        if self._answering is None:
            self._due_s = self._now_s() + self._limits[2]

    def on_url(self, part: bytes) -> None:
        """Its target, or a part of it."""
        if self._coming is not None:
            self._coming.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        coming = self._coming
        if coming is not None and not coming.path:  # trailers come here too, and nobody asked for them
            lower = name.lower()
            value = value.rstrip(b" \t")
            coming.headers.append((lower, name, value))
            coming.first.setdefault(lower, value)
            if lower == b"host":
                coming.hosts += 1

    def on_headers_complete(self) -> None:
        """The head is whole: see whether the body is worth waiting for."""
        coming = self._coming
        parser = self._parser
        if coming is None or parser is None or self._leaving:
            return
        coming.method = parser.get_method()
        coming.http_10 = parser.get_http_version() != "1.1"
        coming.keep_alive = parser.should_keep_alive() and not coming.http_10
        path, _, coming.query = coming.target.partition(b"?")
        if path[:1] != b"/" and b"://" in path:  # as a client of a forward proxy writes it
            path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
        coming.path = path.decode("latin-1") or "/"
        first = coming.first
        coming.chunked = b"transfer-encoding" in first
        if b"content-length" in first:
            coming.declared = int(first[b"content-length"])
        coming.refused = self._judge_head(coming, parser)
        now_s = self._now_s()
        self._due_s = now_s + _BODY_STALL_S
        self._body_by_s = now_s + _WHOLE_BODY_S
        if self._answering is None:
            if coming.refused is not None:
                self._begin(coming)
            elif not coming.http_10 and coming.value(b"expect"):
                self._outbox.write(self._transport, _CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        coming = self._coming
        if coming is None or self._leaving or coming.refused is not None:
            return
        coming.add(body)
        self._due_s = min(self._now_s() + _BODY_STALL_S, self._body_by_s)
        if coming.declared is None and (most := self._too_many(coming, coming.body_bytes)):
            coming.body.clear()
            self._refuse_coming(too_large(most))

    def on_message_complete(self) -> None:
        """It is whole."""
        if self._leaving:
            return
        coming, self._coming = self._coming, None
        self._head_bytes = 0
        if coming is None:
            return
        coming.whole = True
        self._complete = coming
        self._at_once += 1
        if self._at_once >= _MOST_AT_ONCE:
            coming.keep_alive = False  # what else it has sent, it must send again
            self._leaving = True
        if self._answering is None:
            self._begin(coming)
        elif coming is not self._answering:
            if self._ahead is None:
                self._ahead = deque()
            self._ahead.append(coming)

    def _begin_known(self, data: bytes) -> bool:
        """Begin a request whose head is, byte for byte, one that llhttp has read; False where it is not."""
        incoming = self._host.heads.find(data)
        if incoming is None or not self._host.is_ours(incoming.method, incoming.path):
            return False
        incoming.refused = self._host.judge(incoming)
        self._begin(incoming)
        return True

    # Answering

    def _begin(self, incoming: Incoming) -> None:
        """Answer this request; it is the only one until it has been answered."""
        self._answering = incoming
        self._begun = False
        self._request_id = request_id(incoming.value(b"x-request-id"))
        if incoming.refused is not None:
            self.refuse(incoming.refused)
            return
        if not self._host.is_ours(incoming.method, incoming.path):
            self._host.answer(incoming, self, self._request_id)
            return
        running = self._host.take(incoming, self, self._request_id)
        if self._still_answers(incoming):  # else that has ended already, in the same call
            self._running = running
            if self._full and running is not None:
                running.pause()

    def _still_answers(self, incoming: Incoming) -> bool:
        return self._answering is incoming

    def begin(self, status: int, lines: bytes) -> None:
        """The head of an answer whose length is not known yet; sent with the first of its body."""
        incoming = self._answering
        if incoming is None:
            return
        self._begun = True
        self._chunked = not incoming.http_10
        if self._chunked:
            lines += b"Transfer-Encoding: chunked\r\n"
        else:
            incoming.keep_alive = False
        self._before = self._head(status, lines)

    def send(self, payload: bytes, framed: bytes | None = None) -> None:
        """More of its body."""
        if self._answering is None:
            return
        if self._chunked:
            payload = framed if framed is not None else chunk(payload)
        if self._before:
            payload = self._before + payload
            self._before = b""
        self._outbox.write(self._transport, payload)

    def short_way(self) -> Line | None:
        """Where whole chunks of this answer may be written as they are; None where they must not."""
        if self._answering is None or not self._chunked or self._before:
            return None
        return self._transport

    def end(self, trailers: bytes = b"") -> None:
        """The answer is whole."""
        if self._answering is None:
            return
        closing = (b"0\r\n%b\r\n" % trailers if trailers else END) if self._chunked else b""
        if self._before or closing:
            self._outbox.write(self._transport, self._before + closing)
            self._before = b""
        self._answered()

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """A whole answer; of one to a HEAD the body stays here."""
        incoming = self._answering
        if incoming is None:
            return
        self._begun = True
        said = b"" if incoming.method == b"HEAD" else body
        head = self._head(status, lines)[:-2]
        self._outbox.write(self._transport, b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), said))
        self._answered()

    def refuse(self, refused: Refused, lines: bytes = b"", *, counted: bool = False) -> None:
        """An error of ours; ``counted`` where somebody else tells of it."""
        incoming = self._answering
        if incoming is None:
            return
        if refused.close or not incoming.whole:
            incoming.keep_alive = False
        if not counted:
            self._host.told(incoming, refused.code, self._request_id)
        self.whole(refused.code.status, _JSON_LINE + lines_of(refused.headers) + lines, refused.body())

    def abort(self) -> None:
        """Break the connection."""
        self._running = None
        self._answering = None
        self._leaving = True
        self._outbox.flush()
        self._transport.abort()

    def sweep(self, now_s: float) -> None:
        """See whether the client takes too long; called some times a second."""
        if self._running is not None or now_s < self._due_s:
            return
        coming = self._coming
        self._outbox.flush()
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes:
            if unread_bytes == self._unread_bytes:
                self._transport.abort()  # for all of the time, it has read nothing of what it was told
            self._unread_bytes = unread_bytes
            self._due_s = now_s + _IDLE_CLIENT_S
        elif self._leaving or coming is None:
            self._transport.close()
        elif coming.path:
            self._refuse_coming(too_slow(_BODY_STALL_S, _WHOLE_BODY_S if now_s >= self._body_by_s else None))
        else:
            self._refuse_coming(
                Refused(
                    Code.REQUEST_TIMEOUT,
                    f"The headers did not come within {format_duration(self._limits[2])}; send the request again.",
                    close=True,
                )
            )

    def close(self) -> None:
        """Close: at once where an answer is under way, it will never be whole."""
        self._leaving = True
        self._outbox.flush()
        running, self._running = self._running, None
        if running is not None:
            self._answering = None
            running.abandon()
            self._transport.abort()
        else:
            self._transport.close()

    @property
    def peer(self) -> str:
        """The client's address; empty where it has none."""
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def expecting(self) -> bool:
        """Whether a request is coming in, or none has come yet since the client is here."""
        return not self._leaving and (self._coming is not None or not self._request_id)

    @property
    def flushing(self) -> bool:
        """Whether a whole answer is still on its way to the client."""
        self._outbox.flush()
        return self._answering is None and bool(self._transport.get_write_buffer_size())

    # How

    def _head(self, status: int, lines: bytes) -> bytes:
        incoming = self._answering
        assert incoming is not None
        if self._host.closing:
            incoming.keep_alive = False
        version = b"1.0" if incoming.http_10 else b"1.1"
        line = _STATUS_LINES.get((version, status)) or b"HTTP/%b %d \r\n" % (version, status)
        return b"%b%b%bX-Request-Id: %b\r\nServer: hedgeserve\r\n%b\r\n" % (
            line,
            lines,
            self._host.date_line,
            self._request_id.encode(),
            b"" if incoming.keep_alive else b"Connection: close\r\n",
        )

    def _answered(self) -> None:
        """One request is done: the next one that was sent ahead, or the end."""
        incoming, self._answering = self._answering, None
        self._running = None
        self._begun = False
        assert incoming is not None
        incoming.body = []
        self._due_s = self._now_s() + _IDLE_CLIENT_S
        if not incoming.keep_alive:
            self._leave()
            return
        ahead = self._ahead
        if ahead:
            self._begin(ahead.popleft())
            if not ahead and not self._transport.is_closing():
                self._transport.resume_reading()
        elif self._coming is not None:
            self._turn_to(self._coming)

    def _turn_to(self, coming: Incoming) -> None:
        """What is still coming is next: give it the time, and the word, that it would have had at once."""
        if coming.refused is not None:
            self._begin(coming)
        elif not coming.path:
            self._due_s = self._now_s() + self._limits[2]
        else:
            self._due_s = self._now_s() + _BODY_STALL_S
            if not coming.http_10 and coming.value(b"expect"):
                self._outbox.write(self._transport, _CONTINUE)

    def _leave(self) -> None:
        """Close, but not before the client has had time to read what was said: what it still sends is swallowed.

        Closing a socket with unread bytes, or more of them on their way, resets the connection, and the client
        might never see our answer (RFC 9112, section 9.6).
        """
        sends_more = self._leaving or self._coming is not None
        self._leaving = True
        self._ahead = None
        self._outbox.flush()
        half = self._transport.can_write_eof()
        if not half and not sends_more:
            self._transport.close()
            return
        self._due_s = self._now_s() + _LINGER_S
        try:
            if half:  # not with TLS: there the length of the answer must be enough
                self._transport.write_eof()
            self._transport.resume_reading()
        except (OSError, RuntimeError):
            self._transport.abort()

    def _judge_head(self, coming: Incoming, parser: httptools.HttpRequestParser) -> Refused | None:
        max_head = self._limits[0]
        names = coming.first
        if (self._head_bytes > max_head or self._at_once) and coming.head_bytes > max_head:
            return self._headers_too_long()
        if coming.http_10 and parser.get_http_version() != "1.0":
            return not_http("its version must be 1.0 or 1.1")
        if coming.chunked and (why := coming.framing_trouble()):
            return not_http(why)
        if coming.hosts != 1 and (coming.hosts or not coming.http_10):
            return not_http("it must have one Host header")
        if b"upgrade" in names and parser.should_upgrade():
            upgrade = coming.value(b"upgrade").decode("latin-1")[:40]
            return Refused(
                Code.UPGRADE_NOT_SUPPORTED,
                f'Upgrade to "{upgrade}" is not supported here; send plain HTTP requests.',
                close=True,
            )
        if self._host.is_ours(coming.method, coming.path):
            refused = self._host.judge(coming)
            if refused is not None:
                return refused
        if b"expect" in names and not coming.http_10 and coming.value(b"expect").lower() != b"100-continue":
            return Refused(
                Code.EXPECTATION_FAILED, 'The only "Expect" that is understood is "100-continue".', close=True
            )
        if coming.declared is not None and (most := self._too_many(coming, coming.declared)):
            return too_large(most)
        return None

    def _too_many(self, coming: Incoming, body_bytes: int) -> int:
        """0 where a body may be so large; else how large it may be."""
        most = self._limits[1]
        if body_bytes > most:
            return most
        ours = body_bytes <= _LONGEST_QUESTION_BYTES or self._host.is_ours(coming.method, coming.path)
        return 0 if ours else _LONGEST_QUESTION_BYTES

    def _unreadable(self, error: Exception) -> None:
        """What cannot be parsed is answered with our error body, never with text or HTML."""
        self._coming = self._coming or Incoming()
        self._refuse_coming(not_http(" ".join(str(error).split())[:200]))

    def _refuse_coming(self, refused: Refused) -> None:
        """Read no more of it, nor of what is behind it; what is before it is answered first."""
        coming = self._coming
        assert coming is not None
        coming.refused = refused
        if self._answering is None:
            self._begin(coming)
        else:
            self._leaving = True

    def _headers_too_long(self) -> Refused:
        limit = format_bytes(self._limits[0])
        return Refused(
            Code.HEADERS_TOO_LARGE,
            f"The request line and headers are larger than {limit}, the most that is taken here.",
            close=True,
        )


def date_line() -> bytes:
    """The ``Date`` of this second, as a header line."""
    return b"Date: %b\r\n" % formatdate(usegmt=True).encode()
