"""Chunked framing: what llhttp makes of it, however the bytes are cut."""

from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.chunked import END, ChunkError, Dechunker, chunk, whole_chunks

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PAYLOADS = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


class Oracle:
    """llhttp's reading of a body."""

    def __init__(self) -> None:
        self.body = b""
        self.whole = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True


def llhttp(body: bytes) -> tuple[bytes, bool] | None:
    """The payload and whether it is whole; None where llhttp calls it broken."""
    oracle = Oracle()
    parser = httptools.HttpResponseParser(oracle)
    try:
        parser.feed_data(HEAD + body)
    except httptools.HttpParserError:
        return None if not oracle.whole else (oracle.body, True)
    return oracle.body, oracle.whole


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(edges)]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Well-formed, with sizes in either case, extensions and trailers."""
    framed = b""
    for payload in draw(PAYLOADS):
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % len(payload)
        framed += size + draw(st.sampled_from([b"", b";a=b", b";q"])) + b"\r\n" + payload + b"\r\n"
    return framed + b"0\r\n" + draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"])) + b"\r\n"


@given(bodies(), st.lists(st.integers(0, 4000), max_size=12))
def test_a_body_is_what_llhttp_says_it_is_however_it_is_cut(body: bytes, places: list[int]) -> None:
    """Payload, end, and what comes after it."""
    dechunker = Dechunker()
    payload = b"".join(dechunker.feed(piece) for piece in cut(body + b"surplus", places) if not dechunker.ended)
    assert (payload, dechunker.ended) == llhttp(body)
    assert b"surplus".startswith(dechunker.rest)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_garbage_is_never_taken_for_more_than_llhttp_takes_it_for(body: bytes, places: list[int]) -> None:
    """What llhttp calls broken never comes out as a whole body."""
    dechunker, payload = Dechunker(), b""
    try:
        for piece in cut(body, places):
            if not dechunker.ended:
                payload += dechunker.feed(piece)
    except ChunkError:
        return
    if dechunker.ended:
        assert llhttp(body) == (payload, True)


@given(PAYLOADS, st.binary(max_size=20))
def test_plain_whole_chunks_are_found_and_nothing_else_touched(payloads: list[bytes], rest: bytes) -> None:
    """What is left begins where the first one that is not plain does."""
    framed = b"".join(map(chunk, payloads))
    found, taken = whole_chunks(framed + b"g" + rest)
    assert (found, taken) == (payloads, len(framed))
    assert whole_chunks(framed + END) == (payloads, len(framed))


@pytest.mark.parametrize(
    "body", [b"5\r\nhelloXX", b"-1\r\n", b"\r\n", b"5 5\r\nhello\r\n", b"5\nhello\r\n", b"0x5\r\n"]
)
def test_broken_framing_is_told(body: bytes) -> None:
    """Longer than it says, signs, no size, two sizes, bare line feeds, prefixes."""
    with pytest.raises(ChunkError):
        Dechunker().feed(body)


def test_what_is_held_has_a_bound() -> None:
    """A size line, or trailers, without an end."""
    with pytest.raises(ChunkError, match="size line is too long"):
        Dechunker().feed(b"1" + b"0" * 5000)
    dechunker = Dechunker()
    with pytest.raises(ChunkError, match="trailers are too long"):
        dechunker.feed(b"0\r\n" + b"X: y\r\n" * 20_000)
