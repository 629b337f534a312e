"""Chunked framing is taken off exactly as llhttp does it, wherever the network cuts the bytes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hedgeserve.proxy.chunked import END, SIZES, ChunkError, Dechunker, chunk, whole_chunks

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKENS = st.text("abcXYZ019-_.!", min_size=1, max_size=8).map(str.encode)


class Oracle:
    """What llhttp makes of a chunked body: its payload, whether it is whole, whether it is none."""

    def __init__(self, framed: bytes) -> None:
        self.payload = b""
        self.whole = False
        self.refused = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(HEAD)
        try:
            self._parser.feed_data(framed)
        except httptools.HttpParserError:
            self.refused = True

    def on_body(self, body: bytes) -> None:
        if not self.whole:
            self.payload += body

    def on_message_complete(self) -> None:
        self.whole = True


def cut(data: bytes, at: Sequence[int]) -> Iterator[bytes]:
    """The same bytes in pieces; none of them is empty."""
    places = sorted({place % (len(data) + 1) for place in at} | {0, len(data)})
    for begin, end in pairwise(places):
        yield data[begin:end]


def dechunk(pieces: Iterator[bytes]) -> tuple[bytes, Dechunker]:
    dechunker, payload = Dechunker(), b""
    for piece in pieces:
        if dechunker.ended:
            break
        payload += dechunker.feed(piece)
    return payload, dechunker


@st.composite
def framings(draw: st.DrawFn) -> bytes:
    """A body with everything that the framing allows: odd sizes, extensions, trailers."""
    framed = b""
    for payload in draw(st.lists(st.binary(min_size=1, max_size=300), max_size=6)):
        size = b"%x" % len(payload)
        size = draw(st.sampled_from([size, size, size.upper(), b"000" + size]))
        extension = draw(st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"', b";a=b;c=d"]))
        framed += size + extension + b"\r\n" + payload + b"\r\n"
    trailers = draw(st.lists(st.tuples(TOKENS, TOKENS), max_size=2))
    return framed + b"0\r\n" + b"".join(b"%b: %b\r\n" % trailer for trailer in trailers) + b"\r\n"


CUTS = st.lists(st.integers(0, 2000), max_size=12)


@settings(max_examples=150)
@given(framings(), CUTS)
def test_the_payload_is_the_one_that_llhttp_finds_however_it_is_cut(framed: bytes, cuts: list[int]) -> None:
    """Pieces of any length, in any place: inside a size, between CR and LF, in the trailers."""
    oracle = Oracle(framed)
    assert oracle.whole
    payload, dechunker = dechunk(cut(framed, cuts))
    assert (payload, dechunker.ended, dechunker.rest) == (oracle.payload, True, b"")


@settings(max_examples=30)
@given(framings())
def test_single_bytes_are_enough(framed: bytes) -> None:
    """The slowest network there is."""
    payload, dechunker = dechunk(cut(framed, range(len(framed))))
    assert (payload, dechunker.ended) == (Oracle(framed).payload, True)


@settings(max_examples=100)
@given(framings(), st.binary(min_size=1, max_size=40), CUTS)
def test_what_comes_after_the_body_is_left_over(framed: bytes, after: bytes, cuts: list[int]) -> None:
    """It belongs to no answer, and whoever reads on must know that."""
    dechunker, payload, pieces = Dechunker(), b"", cut(framed + after, cuts)
    while not dechunker.ended:
        payload += dechunker.feed(next(pieces))
    assert payload == Oracle(framed).payload
    assert dechunker.rest + b"".join(pieces) == after


@settings(max_examples=300)
@given(framings(), st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 3), CUTS)
@example(b"5\r\nhello\r\n0\r\n\r\n", 8, b"!", 0, [])
def test_of_a_mangled_body_nothing_is_taken_that_llhttp_would_read_otherwise(
    framed: bytes, at: int, put: bytes, lost: int, cuts: list[int]
) -> None:
    """Where both find an end it is the same one; up to a mistake, the payload is the same too."""
    at %= len(framed)
    mangled = framed[:at] + put + framed[at + lost :]
    oracle = Oracle(mangled)
    try:
        payload, dechunker = dechunk(cut(mangled, cuts))
    except ChunkError:
        assert oracle.refused or oracle.whole is False
        return
    if oracle.whole:
        assert (payload, dechunker.ended) == (oracle.payload, True)
    elif not oracle.refused:
        assert (payload, dechunker.ended) == (oracle.payload, False)


@pytest.mark.parametrize(
    "framed",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\nx\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b" 1\r\nx\r\n",
        b"1_0\r\nx\r\n",
        b"\xb2\r\nxx\r\n",
        b"1\nx\r\n0\r\n\r\n",
        b"1;a\nb\r\nx\r\n0\r\n\r\n",
        b"1;a\rb\r\nx\r\n0\r\n\r\n",
        b"1\r\nxy\r\n0\r\n\r\n",
        b"2\r\nx\r\n0\r\n\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"1\r\nx\r\r\n",
        b"f" * 16 + b"\r\n",
        b"1" + b"0" * 5000,
        b"1;" + b"x" * 5000,
        b"0\r\nX: y\n\r\n",
        b"0\r\nX: " + b"y" * 70_000,
        b"0\r\n" + b"X: y\r\n" * 20_000,
    ],
)
@pytest.mark.parametrize("piecewise", [False, True])
def test_broken_framings_are_refused(framed: bytes, piecewise: bool) -> None:
    """Whether they come at once or byte by byte; endless lines and trailers too."""
    pieces = cut(framed, range(len(framed)) if piecewise else ())
    with pytest.raises(ChunkError):
        dechunk(pieces)


@settings(max_examples=150)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=8), st.integers(0, 4000))
def test_the_short_way_for_whole_chunks_agrees_with_the_long_one(payloads: list[bytes], end: int) -> None:
    """However much of them has come: what it takes is what the other takes, and it takes only whole ones."""
    framed = b"".join(map(chunk, payloads)) + END
    data = framed[: end % (len(framed) + 1)]
    found, taken = whole_chunks(data)
    assert found == payloads[: len(found)]
    assert data[:taken] == b"".join(map(chunk, found))
    rest, dechunker = dechunk(iter([data[taken:]]))
    whole, _ = dechunk(iter([data]))
    assert b"".join(found) + rest == whole
    assert dechunker.aligned == (len(data) == taken)


@settings(max_examples=200)
@given(st.binary(max_size=60) | framings())
def test_the_short_way_takes_nothing_that_is_not_a_whole_chunk(data: bytes) -> None:
    """Whatever the bytes are: what it takes is chunks to llhttp too."""
    found, taken = whole_chunks(data)
    oracle = Oracle(data[:taken])
    assert not oracle.refused
    assert oracle.payload == b"".join(found)
    assert not oracle.whole


def test_a_chunk_is_aligned_only_between_chunks() -> None:
    """Only then may the next bytes be looked at as chunks of their own."""
    dechunker, aligned = Dechunker(), []
    for byte in b"2\r\nab\r\n0\r\n":
        aligned.append(dechunker.aligned)
        dechunker.feed(bytes([byte]))
    assert aligned == [True, False, False, False, False, False, False, True, False, False]
    assert not dechunker.aligned


def test_sizes_are_those_that_servers_write() -> None:
    """Lower case, without leading zeros: anything else goes the long way. The last chunk does too."""
    assert SIZES[b"fff"] == 4095
    assert not {b"0", b"00", b"FFF", b"1000", b""} & set(SIZES)
