"""How fast a stream's tokens come from its present replica. Pure."""

_SHORTEST_S = 1.0
"""Below which nothing has been measured."""


class Pace:
    """Measured from ``since_s`` on, when ``before`` tokens of the answer had been told; in tokens a second."""

    __slots__ = ("_before", "_since_s")

    def __init__(self, since_s: float, before: int) -> None:
        self._since_s = since_s
        self._before = before

    def measured(self, now_s: float, told: int) -> float | None:
        """The pace with ``told`` tokens told by now; None while too little time has passed."""
        seconds = now_s - self._since_s
        return None if seconds < _SHORTEST_S else (told - self._before) / seconds

    def expected(self, now_s: float, told: int, typical: float) -> float:
        """The pace that it will go on with.

        That of its own tokens once there are some seconds of them; before, the pace that streams ``typically``
        have counts as much as a second of its own.
        """
        return (told - self._before + typical) / (now_s - self._since_s + 1.0)
