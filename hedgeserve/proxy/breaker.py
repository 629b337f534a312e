"""For how long a replica that fails comes after all others. Pure."""

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 15.0
_MOST_DOUBLINGS = 4  # beyond the longest pause already


class Breaker:
    """One replica's failures in a row: each doubles the pause, from 1 s to at most 15 s; one success forgives all.

    A replica that was taken away has not failed: nobody tells its breaker.
    """

    __slots__ = ("_in_a_row",)

    def __init__(self) -> None:
        self._in_a_row = 0

    def failed(self, now_s: float) -> float:
        """It has failed a request: until when others come first."""
        pause_s = min(_FIRST_PAUSE_S * 2**self._in_a_row, _LONGEST_PAUSE_S)
        self._in_a_row = min(self._in_a_row + 1, _MOST_DOUBLINGS)
        return now_s + pause_s

    def worked(self) -> None:
        """It has answered: the next failure is the first one again."""
        self._in_a_row = 0
