"""How long to leave tokens lying, so that more of them are taken in one go. Pure.

Where thousands of tokens a second come one by one, each is a wake-up of this process and one of its reader, and
these cost more than all that is done with the token. Network cards meet the same by coalescing their interrupts.
"""

_REST_S = 0.0005
"""Far below what separates one stream's tokens, and what anybody can see."""
_BRISK_PER_S = 8000.0
"""Tokens a second, of all streams, from which on a rest brings several."""
_MANY = 32
"""Tokens of one turn that are as many as a rest could wish for: whoever is that busy need not wait for more."""
_WINDOW_S = 0.01
_HURRY_S = 0.003
"""For so long after a request came nothing is left lying: it has still to be read, and sent to a replica."""


class Coalescing:
    """Decides after each turn of the event loop, from the tokens that came in it and shortly before."""

    __slots__ = ("_brisk", "_hurries_until_s", "_since_s", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0
        self._since_s = 0.0
        self._brisk = False
        self._hurries_until_s = 0.0

    def hurry(self, now_s: float) -> None:
        """A client has come, or its request: take no rest before it is on its way."""
        self._hurries_until_s = now_s + _HURRY_S

    def rest_s(self, tokens: int, now_s: float) -> float:
        """For how many seconds nothing need be looked at, after a turn in which so many tokens came; often 0.0."""
        self._tokens += tokens
        passed_s = now_s - self._since_s
        if passed_s >= _WINDOW_S:
            self._brisk = self._tokens >= _BRISK_PER_S * passed_s
            self._since_s = now_s
            self._tokens = 0
        if not self._brisk or not 0 < tokens < _MANY or now_s < self._hurries_until_s:
            return 0.0
        return _REST_S
