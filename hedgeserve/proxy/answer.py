"""An answer as its client is told it: where it goes, how far it has been told, which of its headers are ours."""

from typing import Protocol

from hedgeserve.proxy.headers import lines_of
from hedgeserve.proxy.pipe import Line
from hedgeserve.proxy.replies import Code, Refused, error_event
from hedgeserve.proxy.report import Report, outcome_of
from hedgeserve.proxy.verdict import Dialect

_JSON_LINE = b"Content-Type: application/json\r\n"


class ClientSide(Protocol):
    """Where an answer goes; its methods do nothing when nobody is there any more."""

    def begin(self, status: int, lines: bytes) -> None:
        """The head of an answer whose length is not known yet."""

    def send(self, payload: bytes, framed: bytes | None = None) -> None:
        """More of it; ``framed`` is the same as whole chunks, where that is at hand."""

    def short_way(self) -> Line | None:
        """Where chunks may go as they are, from now to the end of the answer; None where they must not."""

    def end(self, trailers: bytes = b"") -> None:
        """The answer is whole."""

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """A whole answer."""

    def refuse(self, refused: Refused, lines: bytes = b"", *, counted: bool = False) -> None:
        """An error of ours; ``counted`` where somebody else tells of it."""

    def abort(self) -> None:
        """Break the connection: the only honest end of half an answer that is no stream of events."""


class Answer(Report):
    """What its client has been told of it, and so what is to be reported; ``begun`` is true once that is anything.

    ``reply_status`` and ``reply_lines``, of headers, are those of the replica whose answer it is, and ``readable``
    says whether what is told of it is a stream that can be read, and so be continued. More of what has begun goes
    straight to the ``client``: on the path of every token.
    """

    __slots__ = ("begun", "client", "readable", "reply_lines", "reply_status")

    def __init__(self, client: ClientSide, started_s: float) -> None:
        super().__init__(started_s)
        self.client = client
        self.begun = False
        self.readable = True
        self.reply_status = 0
        self.reply_lines = b""

    def expect(self, status: int, lines: bytes, *, readable: bool) -> None:
        """A replica begins to answer; a head that has been told stays as it is."""
        self.reply_status = status
        if not self.begun:
            self.reply_lines = lines
            self.readable = readable

    def begin(self) -> None:
        """Tell the head."""
        self.begun = True
        self.status = self.reply_status
        self.client.begin(self.status, self._with_ours(self.reply_lines))

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Tell all of it at once."""
        self.status = status
        lines = self._with_ours(lines)
        if self.resumed:
            lines += b"X-HedgeServe-Resumed: %d\r\n" % self.resumed
        self.client.whole(status, lines, body)

    def whole_json(self, body: bytes) -> None:
        """Tell all of it at once: one that we have put together."""
        self.whole(200, _JSON_LINE, body)

    def end(self) -> None:
        """Nothing of it is missing."""
        self.client.end(self._trailers())

    def refuse(self, refused: Refused) -> None:
        """Tell that there is none; only while it has not begun."""
        self.outcome = outcome_of(refused.code)
        self.status = refused.code.status
        attempts = b"X-HedgeServe-Attempts: %d\r\n" % self.attempts if self.attempts else b""
        self.client.refuse(refused, attempts, counted=True)

    def cut_off(self, dialect: Dialect, code: Code, reason: str) -> None:
        """End a stream that has begun and cannot be finished with an error that its clients understand."""
        self.client.send(error_event(dialect, code, reason[:1].upper() + reason[1:]))
        self.client.end(self._trailers())

    def _with_ours(self, lines: bytes) -> bytes:
        return b"%bX-HedgeServe-Replica: %b\r\nX-HedgeServe-Attempts: %d\r\n" % (
            lines,
            self.replica.encode(),
            self.attempts,
        )

    def _trailers(self) -> bytes:
        return lines_of([("X-HedgeServe-Resumed", str(self.resumed))]) if self.resumed else b""
