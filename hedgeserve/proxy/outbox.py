"""What is to be sent, held back to the end of the event loop's turn and sent in one go.

Whoever is sent something is woken up for it, and waking a process up costs more than all else about a small write.
Sent one after the other, a turn's writes find their readers awake: most of those to one process go to the one that
the first of them has woken. What is held back never waits longer than the turn, nor for more than a few writes.

Between two turns that bring many streams' tokens the process rests for a moment (:mod:`coalescing`).
"""

import time
from collections.abc import Callable

import structlog

from hedgeserve.proxy.coalescing import Coalescing
from hedgeserve.proxy.pipe import Line

_log = structlog.get_logger(__name__)

_MOST_WRITES = 64
_MOST_BYTES = 256 * 2**10


class Outbox:
    """The writes of one event loop, in their order.

    All that a transport is to send must go through here, or through :meth:`flush` first: before it is asked to
    close, or how much it has still to send. Whoever takes tokens in counts ``tokens`` up. ``soon`` is the loop's
    ``call_soon``, ``now_s`` a monotonic clock; ``rest`` lets so many seconds pass.
    """

    __slots__ = ("_bytes", "_coalescing", "_now_s", "_rest", "_scheduled", "_soon", "_writes", "tokens")

    def __init__(
        self,
        soon: Callable[[Callable[[], None]], object],
        now_s: Callable[[], float] = time.monotonic,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._soon = soon
        self._now_s = now_s
        self._rest = rest
        self._coalescing = Coalescing()
        self.tokens = 0
        self._writes: list[tuple[Line, bytes]] = []
        self._bytes = 0
        self._scheduled = False

    def write(self, transport: Line, data: bytes) -> None:
        """Have this sent before the turn ends."""
        writes = self._writes
        writes.append((transport, data))
        self._bytes += len(data)
        if len(writes) >= _MOST_WRITES or self._bytes > _MOST_BYTES:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self._soon(self._end_of_turn)

    def hurry(self) -> None:
        """A client has come, or its request: let no rest come between it and a replica."""
        self._coalescing.hurry(self._now_s())

    def flush(self) -> None:
        """Send all of it now."""
        writes = self._writes
        if not writes:
            return
        self._writes = []
        self._bytes = 0
        for transport, data in writes:
            if transport.is_closing():
                continue  # whoever it was for is gone
            try:
                transport.write(data)
            except Exception:  # a mistake of ours costs this connection, and not those whose turn is next
                _log.exception("a connection could not be written to")
                transport.abort()

    def _end_of_turn(self) -> None:
        self._scheduled = False
        self.flush()
        if self.tokens:
            rest_s = self._coalescing.rest_s(self.tokens, self._now_s())
            self.tokens = 0
            if rest_s:
                # The one place where the loop is held up, and on purpose: it looks away while more comes.
                self._rest(rest_s)
