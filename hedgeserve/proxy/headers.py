"""Which headers pass, which stay: hop-by-hop ones end here, credentials of the client too. Pure, in bytes."""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import count

Header = tuple[bytes, bytes, bytes]
"""A header as it came: its name in lower case, its name as it was written, its value."""

Headers = list[tuple[str, str]]
"""Headers that we write ourselves."""

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Of the request, these are said anew: framing is ours, the key is the replica's, and what must be scanned must not
# be compressed.
_NOT_TO_REPLICA = _HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-length",
    b"expect",
    b"host",
    b"x-api-key",
    b"x-request-id",
}
_TRACE = (b"traceparent", b"tracestate")
_NOT_TO_CLIENT = _HOP_BY_HOP | {b"content-length", b"date", b"server", b"x-request-id"}
_OURS = b"x-hedgeserve-"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_PROCESS = os.urandom(10).hex()
_COUNT = count(1)


def to_replica(client: Sequence[Header], *, traced: bool = False) -> bytes:
    """The header lines of a request that every replica gets; its host, key, id and framing are not among them.

    Nor, where it is ``traced``, is its place in a trace: each attempt has one of its own.
    """
    named = (*_named(client), *_TRACE) if traced else _named(client)
    lines = [
        b"%b: %b\r\n" % (name, value)
        for lower, name, value in client
        if lower not in _NOT_TO_REPLICA and lower not in named
    ]
    lines.append(b"Accept-Encoding: identity\r\n")
    return b"".join(lines)


def to_client(upstream: Sequence[Header]) -> bytes:
    """The header lines of an answer that its client gets; neither ours nor its framing are among them."""
    named = _named(upstream)
    return b"".join(
        b"%b: %b\r\n" % (name, value)
        for lower, name, value in upstream
        if lower not in _NOT_TO_CLIENT and lower not in named and not lower.startswith(_OURS)
    )


def lines_of(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header lines of our own."""
    return b"".join(f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in headers)


def value_of(headers: Iterable[Header], name: bytes) -> bytes:
    """The first value of a header, by its name in lower case; empty where there is none."""
    for lower, _, value in headers:
        if lower == name:
            return value
    return b""


def request_id(given: bytes) -> str:
    """The client's ``x-request-id`` where it is sane (1 to 128 of ``A-Za-z0-9._:-``), else a new one.

    A new one is 80 random bits of this process and a count: unique, and ten times as cheap as a UUID.
    """
    if given and _SANE_ID.fullmatch(given):
        return given.decode()
    return f"{_PROCESS}{next(_COUNT):012x}"


def _named(headers: Sequence[Header]) -> Sequence[bytes]:
    """The headers that ``Connection`` names: they are between its two ends alone."""
    for lower, _, _ in headers:
        if lower == b"connection":
            return [name.strip().lower() for other, _, all_of in headers if other == b"connection"
                    for name in all_of.split(b",")]  # fmt: skip
    return ()
