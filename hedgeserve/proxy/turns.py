"""Much work that became due at once, done in slices, so that nobody else's bytes have to wait for all of it.

When a replica vanishes its streams, hundreds perhaps, all go on elsewhere in the same moment: each costs a
fraction of a millisecond, and together they would be a pause that every other stream can see.
"""

from collections import deque
from collections.abc import Callable

_SLICE_S = 0.004
_PAUSE_S = 0.001


class Turns:
    """Calls what it is given in order: at once where little is waiting, else in slices of some milliseconds.

    ``now_s`` is a monotonic clock, ``call_later`` the loop's.
    """

    def __init__(
        self, now_s: Callable[[], float], call_later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._now_s = now_s
        self._call_later = call_later
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def soon(self, work: Callable[[], None]) -> None:
        """Do this, in its turn; never within this call."""
        self._waiting.append(work)
        if not self._scheduled:
            self._scheduled = True
            self._call_later(0, self._run)

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Do this after so many seconds."""
        self._call_later(delay_s, work)

    def _run(self) -> None:
        until_s = self._now_s() + _SLICE_S
        try:
            while self._waiting:
                self._waiting.popleft()()
                if self._now_s() >= until_s:
                    break
        finally:
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                self._call_later(_PAUSE_S, self._run)
