"""One HTTP request to an engine and its answer, on a connection of its own; for probes, not for clients' requests.

A connection that is opened anew also asks whether the engine still takes connections.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote, urlsplit

import httptools

_PORTS = {"http": 80, "https": 443}
_READ_BYTES = 64 * 2**10
_KEPT_BYTES = 300
_LONGEST_HEAD_BYTES = 256 * 2**10
_NEED_NO_QUOTING = "/%?=&:@!$'()*+,;~[]"


class NoAnswerError(Exception):
    """What came was no answer, or not the whole of one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, and the beginning of the body."""

    status: int
    beginning: bytes


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom https is verified with; ``name`` is what the certificate must name, None for the URL's host."""

    context: ssl.SSLContext
    name: str | None = None


async def ask(url: str, *, headers: Mapping[str, str], body: object = None, trust: Trust | None = None) -> Answer:
    """GET it, or POST ``body`` as JSON. No redirect and no proxy is followed; without ``trust`` https is verified
    as the system does.

    Raises:
        NoAnswerError: The connection was lost, or what came is no HTTP.
        OSError: There is no way there, or it proves nobody's identity.
        ValueError: The host or the port is none.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("ascii" if (parts.hostname or "").isascii() else "idna").decode()
    tls = name = None
    if parts.scheme == "https":
        trust = trust or Trust(await asyncio.to_thread(_public_trust))
        tls, name = trust.context, trust.name or host
    port = parts.port or _PORTS.get(parts.scheme, 80)
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
    try:
        writer.write(_request(parts.path or "/", parts.query, _authority(host, parts.port), headers, body))
        return await _read(reader)
    finally:
        writer.transport.abort()


def _request(path: str, query: str, authority: str, headers: Mapping[str, str], body: object) -> bytes:
    target = quote(path + (f"?{query}" if query else ""), safe=_NEED_NO_QUOTING)
    lines = {"Host": authority, "Accept": "*/*", "User-Agent": "hedgeserve", "Connection": "close", **headers}
    content = b""
    if body is not None:
        content = json.dumps(body).encode()
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    head = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in lines.items())]
    if any("\r" in line or "\n" in line for line in head):
        raise ValueError("a header may not go over more than one line")
    return "\r\n".join([*head, "", ""]).encode() + content


def _authority(host: str, port: int | None) -> str:
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")


async def _read(reader: asyncio.StreamReader) -> Answer:
    found = _Found()
    while not found.enough:
        data = await reader.read(_READ_BYTES)
        if not data:
            if found.status and found.to_the_end:
                break
            raise NoAnswerError("the connection was closed before the answer was whole")
        found.feed(data)
    return Answer(found.status, bytes(found.body[:_KEPT_BYTES]))


class _Found:
    """What llhttp has found so far."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._whole = False
        self.status = 0
        self.to_the_end = True
        self.body = bytearray()

    @property
    def enough(self) -> bool:
        """Whether the answer is whole, or more of it would say nothing new: only a 200 must come to its end."""
        return self._whole or (self.status not in (0, 200) and len(self.body) >= _KEPT_BYTES)

    def feed(self, data: bytes) -> None:
        if not self.status:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD_BYTES:
                raise NoAnswerError(f"its headers are longer than {_LONGEST_HEAD_BYTES} bytes")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._whole:
                raise NoAnswerError(f"the answer is not valid HTTP: {error}") from None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self.to_the_end = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self.status = status if status >= 200 else 0

    def on_body(self, part: bytes) -> None:
        if len(self.body) < _KEPT_BYTES:
            self.body += part

    def on_message_complete(self) -> None:
        self._whole = self.status > 0  # else it is a 100 Continue that nobody asked for, and the answer follows
        self.to_the_end = True


@cache
def _public_trust() -> ssl.SSLContext:
    return ssl.create_default_context()
