"""HTTP's chunked framing, taken off and put on. Pure; RFC 9112, section 7.1.

For answers of replicas: requests of clients are parsed by llhttp, every byte of them.
"""

import re
from typing import Final

SIZES = {b"%x" % size: size for size in range(1, 4096)}
"""The sizes that nearly all chunks of a stream have, as they are written: a look-up instead of a parse."""

END = b"0\r\n\r\n"
"""What ends a chunked body without trailers."""

# What the next byte belongs to; plain numbers, for they are looked at for every chunk.
_SIZE: Final = 0
_DATA: Final = 1
_AFTER_DATA: Final = 2
_TRAILERS: Final = 3
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_LONGEST_LINE_BYTES = 4096
_LONGEST_TRAILERS_BYTES = 65536


class ChunkError(ValueError):
    """The framing is broken."""


class Dechunker:
    """Takes the framing off a body that comes in pieces.

    ``aligned`` says that the next byte begins a chunk: nothing of one is outstanding. ``ended`` that the body is
    whole; what came after it is in ``rest``.
    """

    __slots__ = ("_left", "_line", "_part", "aligned", "ended", "rest")

    def __init__(self) -> None:
        self.aligned = True
        self.ended = False
        self.rest = b""
        self._left = 0  # bytes of the chunk under way
        self._line = b""  # of a size line (or of trailers), what has come so far
        self._part = _SIZE

    def feed(self, data: bytes) -> bytes:
        """The payload in these bytes.

        Raises:
            ChunkError: They are no chunks.
        """
        payload: list[bytes] = []
        position, length = 0, len(data)
        while position < length and not self.ended:
            if self._part == _DATA:
                piece = data[position : position + self._left]
                payload.append(piece)
                self._left -= len(piece)
                position += len(piece)
                if not self._left:
                    self._part = _AFTER_DATA
                continue
            end = data.find(b"\n", position)
            piece = data[position : end + 1 if end >= 0 else length]
            self._line += piece
            position += len(piece)
            if self._part == _AFTER_DATA:
                self._read_after_data()
            elif self._part == _SIZE:
                self._read_size(whole=end >= 0)
            else:
                self._read_trailers(whole=end >= 0)
        self.aligned = self._part == _SIZE and not self._line
        if self.ended:
            self.rest = data[position:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _read_after_data(self) -> None:
        if self._line == b"\r\n":
            self._line = b""
            self._part = _SIZE
        elif self._line != b"\r":
            raise ChunkError("a chunk is longer than it says")

    def _read_size(self, *, whole: bool) -> None:
        if len(self._line) > _LONGEST_LINE_BYTES:
            raise ChunkError("a chunk's size line is too long")
        if not whole:
            return
        line, self._line = self._line, b""
        match = _SIZE_LINE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
        if match is None:
            raise ChunkError(f"{line[:40]!r} is no size of a chunk")
        self._left = int(match[1], 16)
        self._part = _DATA if self._left else _TRAILERS

    def _read_trailers(self, *, whole: bool) -> None:
        if len(self._line) > _LONGEST_TRAILERS_BYTES:
            raise ChunkError("the trailers are too long")
        if whole and not self._line.endswith(b"\r\n"):
            raise ChunkError("a trailer does not end with CR and LF")
        if whole and (self._line == b"\r\n" or self._line.endswith(b"\r\n\r\n")):
            self._line = b""
            self.ended = True


def whole_chunks(data: bytes) -> tuple[list[bytes], int]:
    """The payloads of the plain whole chunks at the beginning of these bytes, and how far they go.

    Plain: with a size below 4 KiB in lower case and nothing else on its line, as all servers write them. Whatever
    is not, or is the last, empty one, is left for a :class:`Dechunker`.
    """
    payloads: list[bytes] = []
    position, length = 0, len(data)
    while position < length:
        at = data.find(b"\r\n", position, position + 5)
        size = SIZES.get(data[position:at]) if at >= 0 else None
        if size is None:
            break
        end = at + size + 4
        if end > length or data[end - 2 : end] != b"\r\n":
            break
        payloads.append(data[at + 2 : end - 2])
        position = end
    return payloads, position


def chunk(payload: bytes) -> bytes:
    """One chunk that holds these bytes, which must not be empty."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)
