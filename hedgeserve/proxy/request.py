"""A client's request as it comes over the wire: what llhttp has found of it by now. Pure."""

from hedgeserve.proxy.headers import Header
from hedgeserve.proxy.replies import Code, Refused

_JOINED_AT_ONCE = 512
_MOST_KNOWN = 256
_LONGEST_KNOWN_BYTES = 4096
_FRAMING_BYTES = 64 * 2**10
_FRAMING_BYTES_PER_CHUNK = 16


class Incoming:
    """One request as it comes: its head, then its body."""

    __slots__ = (
        "body", "body_bytes", "chunked", "client_id", "declared", "first", "headers", "hosts",
        "http_10", "keep_alive", "lines", "method", "path", "pieces", "query", "refused", "target", "whole",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.path = ""
        self.query = b""
        self.headers: list[Header] = []
        self.first: dict[bytes, bytes] = {}
        """The first value of each header, by its name in lower case."""
        self.hosts = 0
        self.http_10 = False
        self.keep_alive = True
        self.declared: int | None = None
        self.chunked = False
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.pieces = 0
        self.whole = False
        self.refused: Refused | None = None
        self.lines: bytes | None = None
        """What of its headers goes on to a replica, once that has been asked."""
        self.client_id: str | None = None
        """Whose key it carries, once that has been asked."""

    def again(self, body: bytes) -> "Incoming":
        """Another request with the very same head, and this body."""
        other = Incoming()
        other.method = self.method
        other.target = self.target
        other.path = self.path
        other.query = self.query
        other.headers = self.headers
        other.first = self.first
        other.hosts = self.hosts
        other.declared = self.declared
        other.body = [body]
        other.body_bytes = len(body)
        other.pieces = 1
        other.whole = True
        other.lines = self.lines
        return other

    def value(self, name: bytes) -> bytes:
        """A header's first value, by its name in lower case."""
        return self.first.get(name, b"")

    @property
    def head_bytes(self) -> int:
        """How large its target and headers are."""
        return len(self.target) + sum(len(name) + len(value) + 4 for _, name, value in self.headers)

    def add(self, body: bytes) -> None:
        """A piece of its body: counted once, and kept in few objects, though it come in chunks of a byte."""
        self.body.append(body)
        self.body_bytes += len(body)
        self.pieces += 1
        if not self.pieces % _JOINED_AT_ONCE:
            joined = self.pieces // _JOINED_AT_ONCE - 1
            self.body[joined:] = [b"".join(self.body[joined:])]

    @property
    def most_wire_bytes(self) -> int:
        """What a chunked body as large as this one is by now may have taken, with all of its framing.

        Extensions and trailers are nothing to anybody here, and must not come for ever.
        """
        return _FRAMING_BYTES + 2 * self.body_bytes + _FRAMING_BYTES_PER_CHUNK * self.pieces

    def framing_trouble(self) -> str:
        """Why it must not be taken with its Transfer-Encoding: with any other than ``chunked``, once.

        llhttp refuses most of it; the rest is what some other server might read otherwise.
        """
        if self.http_10:
            return "HTTP/1.0 knows no Transfer-Encoding"
        if self.declared is not None:
            return "it has both a Content-Length and a Transfer-Encoding"
        encodings = [value.lower() for lower, _, value in self.headers if lower == b"transfer-encoding"]
        return "" if encodings == [b"chunked"] else "the only Transfer-Encoding that is understood is chunked"


class KnownHeads:
    """Heads of requests that llhttp has read: clients say the same ones again and again, to the byte.

    Shared by all connections; bounded in number and size, so that whoever says ever new ones costs us no more than
    reading them.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Incoming] = {}

    def remember(self, incoming: Incoming, data: bytes) -> None:
        """Only of a request that came in ``data`` alone and whole, whose body's length is in its head: then the
        rest is the head."""
        size = incoming.declared
        if (
            not size
            or incoming.http_10
            or not incoming.keep_alive
            or incoming.refused is not None
            or b"expect" in incoming.first
        ):
            return
        head = data[:-size]
        if head.endswith(b"\r\n\r\n") and head.count(b"\r\n\r\n") == 1 and len(head) <= _LONGEST_KNOWN_BYTES:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[head] = incoming.again(b"")

    def find(self, data: bytes) -> Incoming | None:
        """The request that ``data`` is, whole; None where its head is not, byte for byte, one that is known."""
        end = data.find(b"\r\n\r\n", 0, _LONGEST_KNOWN_BYTES) + 4
        known = self._known.get(data[:end]) if end > 3 else None
        if known is None or known.declared != len(data) - end:
            return None
        return known.again(data[end:])


def not_http(why: str) -> Refused:
    """The answer to what could be read in two ways, or in none."""
    return Refused(
        Code.BAD_REQUEST,
        f"The request is not valid HTTP: {why}." if why else "The request is not valid HTTP.",
        close=True,
    )
