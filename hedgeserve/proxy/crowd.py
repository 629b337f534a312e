"""First bytes first: streams that begin in a crowd rest after their first token until the others have theirs.

A thousand requests at once take some tenths of a second to be set up, and those that are served first would spend
most of that time on their next tokens, for which nobody is waiting yet, while the last see nothing at all.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

_WINDOW_S = 0.01
_CROWDED = 40
"""Requests and first tokens in one window from which on setting up is most of the work."""
_MOST_S = 0.2
"""The longest rest: nobody takes it for a stream that stands still."""
_AT_ONCE = 64
"""Streams let go of in one turn of the event loop; all that they have missed comes at once."""
_TICK_S = 0.005


class Stream(Protocol):
    """A stream that can be left lying for a moment."""

    def hold(self) -> None:
        """Read no more of it for now."""

    def let_go(self) -> None:
        """Read on, unless something else stands in the way."""


class Crowd:
    """Those that begin, and the streams that rest meanwhile.

    ``now_s`` is a monotonic clock, ``call_later`` the loop's.
    """

    __slots__ = ("_call_later", "_crowded", "_held", "_now_s", "_seen", "_since_s", "_ticking")

    def __init__(
        self, now_s: Callable[[], float], call_later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._now_s = now_s
        self._call_later = call_later
        self._held: deque[tuple[float, Stream]] = deque()
        self._seen = 0
        self._since_s = 0.0
        self._crowded = False
        self._ticking = False

    def came(self) -> None:
        """One more request is there."""
        self._count(self._now_s())

    def begun(self, stream: Stream) -> None:
        """One of them has its first token."""
        now_s = self._now_s()
        self._count(now_s)
        if self._crowded:
            stream.hold()
            self._held.append((now_s + _MOST_S, stream))
            if not self._ticking:
                self._ticking = True
                self._call_later(_TICK_S, self._tick)

    def _count(self, now_s: float) -> None:
        self._seen += 1
        if now_s - self._since_s >= _WINDOW_S:
            self._judge(now_s)

    def _judge(self, now_s: float) -> None:
        self._crowded = self._seen >= _CROWDED * (now_s - self._since_s) / _WINDOW_S
        self._seen = 0
        self._since_s = now_s

    def _tick(self) -> None:
        now_s = self._now_s()
        if now_s - self._since_s >= _WINDOW_S:
            self._judge(now_s)
        held = self._held
        for _ in range(_AT_ONCE):
            if not held or (self._crowded and held[0][0] > now_s):
                break
            held.popleft()[1].let_go()
        self._ticking = bool(held)
        if self._ticking:
            self._call_later(_TICK_S, self._tick)
