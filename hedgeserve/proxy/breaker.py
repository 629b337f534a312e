"""How long a replica that has failed is passed over. Pure.

A preemption is no failure, and a breaker never stands in its way; nor does one ever close the last door: routing
takes a replica that is passed over where there is no other.
"""

_FIRST_S = 1.0
_LONGEST_S = 15.0
_MOST = 8


class Breaker:
    """One replica's failures in a row."""

    __slots__ = ("_failures",)

    def __init__(self) -> None:
        self._failures = 0

    def failed(self, now_s: float) -> float:
        """Until when others come first: for 1 s, twice as long with each failure in a row, 15 s at most."""
        pause_s: float = min(_FIRST_S * 2**self._failures, _LONGEST_S)
        self._failures = min(self._failures + 1, _MOST)
        return now_s + pause_s

    def worked(self) -> None:
        """It has answered: it is as good as any."""
        self._failures = 0
