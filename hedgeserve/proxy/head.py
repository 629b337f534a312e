"""The head of a replica's answer: read once for the same bytes, by llhttp. Pure."""

from dataclasses import dataclass
from functools import lru_cache

import httptools

from hedgeserve.proxy.headers import Header, to_client, value_of

_REMEMBERED_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer: the same for the same bytes, and made once for them.

    ``lines`` are the header lines that its client gets, ``kind`` and ``encoding`` its content type and encoding in
    lower case. Of its body ``length`` is the size, where it is said; ``keeps`` that the connection goes on after.
    """

    status: int
    lines: bytes
    kind: str
    encoding: str
    chunked: bool
    length: int | None
    keeps: bool


def parse_head(head: bytes) -> Head:
    """What the head of an answer says.

    Raises:
        httptools.HttpParserError: It is not valid HTTP, or its body has another encoding than ``chunked``, once.
        httptools.HttpParserUpgrade: It is the end of HTTP on this connection.
    """
    return _parse_known(head) if len(head) <= _REMEMBERED_BYTES else _parse(head)


def _parse(head: bytes) -> Head:
    reader = _HeadReader()
    parser = reader.parser = httptools.HttpResponseParser(reader)
    parser.feed_data(head)
    if reader.encodings not in ([], [b"chunked"]):
        raise httptools.HttpParserError("its Transfer-Encoding is not chunked")
    return Head(
        status=parser.get_status_code(),
        lines=to_client(reader.headers),
        kind=value_of(reader.headers, b"content-type").decode("latin-1").partition(";")[0].strip().lower(),
        encoding=value_of(reader.headers, b"content-encoding").decode("latin-1").lower(),
        chunked=bool(reader.encodings),
        length=reader.length,
        keeps=reader.keeps,
    )


_parse_known = lru_cache(maxsize=256)(_parse)
"""Engines say the same again and again, within a second to the letter: it is read once."""


class _HeadReader:
    """Takes what llhttp finds in the head of an answer."""

    __slots__ = ("encodings", "headers", "keeps", "length", "parser")

    parser: httptools.HttpResponseParser

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.encodings: list[bytes] = []
        self.keeps = False
        self.length: int | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line."""
        lower = name.lower()
        if lower == b"content-length":
            self.length = int(value)
        elif lower == b"transfer-encoding":
            self.encodings.append(value.strip().lower())
        self.headers.append((lower, name, value))

    def on_headers_complete(self) -> None:
        """Only now can be asked whether the connection goes on: at the end of an empty body it is forgotten."""
        self.keeps = bool(self.parser.should_keep_alive())
