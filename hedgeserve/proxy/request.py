"""A client's request as it comes over the wire: what llhttp has found of it by now. Pure."""

from hedgeserve.proxy.headers import Header
from hedgeserve.proxy.replies import Code, Refused

_JOINED_AT_ONCE = 512
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


def not_http(why: str) -> Refused:
    """The answer to what could be read in two ways, or in none."""
    return Refused(
        Code.BAD_REQUEST,
        f"The request is not valid HTTP: {why}." if why else "The request is not valid HTTP.",
        close=True,
    )
