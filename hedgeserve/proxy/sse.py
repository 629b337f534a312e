"""A stream of server-sent events, scanned as it passes: whole events go on, the end is judged. Pure.

Only whole events are handed on, so that an error event can follow at any moment without running into half of
another one, and an event that spoils the answer can be held back. Bytes are never changed. JSON is parsed only
where a scan finds something to read, once or twice a stream.
"""

import re
from collections.abc import Iterator

from hedgeserve.proxy.verdict import Dialect, read_event, worth_reading

# A line ends with CRLF, LF or CR, an event with an empty line. Atomic groups: CRLF is one line end, never two.
BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
DONE = b"[DONE]"


class EventCutter:
    """Cuts bytes into whole events, however they come; what becomes of those is for the class that extends this.

    ``longest_event_bytes`` bounds what is held back of an event that has not ended.
    """

    def __init__(self, longest_event_bytes: int) -> None:
        self._longest = longest_event_bytes
        self._tail = b""
        self.failure = ""
        """What spoilt the answer; empty while nothing has. What comes after it is dropped."""

    def feed(self, payload: bytes) -> bytes:
        """Take the next bytes; returns those that may be sent on now: whole events, none of them a bad one."""
        if self.failure:
            return b""
        tail = self._tail
        data = tail + payload if tail else payload
        cut = last_boundary(data, max(0, len(tail) - 3))
        self._tail = data[cut:]
        out = self._events(data[:cut]) if cut else b""
        if len(self._tail) > self._longest:
            self.failure = self.failure or f"the engine sent an event of more than {self._longest} bytes"
            self._tail = b""
        return out

    def close(self) -> bytes:
        """The stream has ended cleanly: returns what is left of it, if that makes sense without its empty line."""
        tail, self._tail = self._tail, b""
        if self.failure or not tail:
            return b""
        data = data_of(tail)
        if data and data != DONE and not data.rstrip().endswith(b"}"):
            return b""
        return self._events(tail)

    def _events(self, events: bytes) -> bytes:
        """What becomes of these whole events."""
        raise NotImplementedError


class Scanner(EventCutter):
    """Follows one stream; the same bytes give the same result however they are cut into chunks.

    ``choices`` is the number of choices that the request asked for: the answer is complete when each has
    finished.
    """

    def __init__(self, dialect: Dialect, *, choices: int = 1, longest_event_bytes: int = 8 * 2**20) -> None:
        super().__init__(longest_event_bytes)
        self._dialect = dialect
        self._choices = choices
        self._finished: set[int] = set()
        self._refused = False
        self.done = False
        """Whether ``[DONE]`` has passed."""
        self.tokens = 0
        """Events so far: of text that is told as it comes, about the number of its tokens."""

    @property
    def finished(self) -> bool:
        """Whether a choice has ended with a real reason (or the engine has refused the request)."""
        return self._refused or bool(self._finished)

    @property
    def complete(self) -> bool:
        """Whether nothing of the answer is missing: all choices have finished, or ``[DONE]`` came after one."""
        return self._refused or len(self._finished) >= self._choices or (self.done and self.finished)

    def feed(self, payload: bytes) -> bytes:
        """See :meth:`EventCutter.feed`."""
        ready = super().feed(payload)
        self.tokens += bool(ready)
        return ready

    def _events(self, events: bytes) -> bytes:
        if DONE not in events and not worth_reading(self._dialect, events):
            return events
        passed = 0
        for event in split(events):
            if not self._read(data_of(event)):
                return events[:passed]
            passed += len(event)
        return events

    def _read(self, data: bytes) -> bool:
        """Learn from one event; False: it must not be sent on."""
        if data == DONE:
            if not self.finished:
                self.failure = "the engine ended the stream without a finish_reason"
                return False
            self.done = True
            return True
        if not worth_reading(self._dialect, data):
            return True
        sign = read_event(self._dialect, data)
        self._finished |= sign.finished
        self._refused |= sign.refused
        self.failure = sign.failure
        return not sign.failure


def last_boundary(data: bytes, start: int) -> int:
    """Where the last whole event in ``data`` ends; 0 where none does. None ends before ``start``."""
    if b"\r" not in data:
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            return 0
        # Empty lines pair up from the left, as they do for one who reads byte by byte.
        run = cut
        while run > 0 and data[run - 1] == 0x0A:
            run -= 1
        return cut if (cut - run) % 2 == 0 else cut - 1
    cut = 0
    for boundary in BOUNDARY.finditer(data, start):
        if boundary.end() == len(data) and data.endswith(b"\r"):
            break  # the LF of this CRLF may be on its way
        cut = boundary.end()
    return cut


def split(events: bytes) -> Iterator[bytes]:
    """The events in these bytes, one by one, each with its end; what has none yet comes last."""
    start = 0
    if b"\r" not in events:
        while (end := events.find(b"\n\n", start) + 2) > 1:
            yield events[start:end]
            start = end
        if start < len(events):
            yield events[start:]
        return
    while start < len(events):
        boundary = BOUNDARY.search(events, start)
        end = boundary.end() if boundary else len(events)
        yield events[start:end]
        start = end


def data_of(event: bytes) -> bytes:
    """The data of one event: its ``data:`` lines, joined."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]  # one line and an empty one, as nearly all are
    lines = (line[5:] for line in _LINE.split(event) if line.startswith(b"data:"))
    return b"\n".join(line.removeprefix(b" ") for line in lines)
