"""The waiting line: who may wait, who is served next, when somebody turned away should come back. Pure.

First come, first served, by time of arrival: a request that a replica failed goes back to where it stood, ahead
of all that came after it.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Callable
from operator import attrgetter

from hedgeserve.replica import ReplicaId, RouteTarget

_SHORTEST_S = 1.0
_LONGEST_S = 300.0
_UNKNOWN_S = 10.0
_SPREAD = 0.25
_BY_ARRIVAL = attrgetter("arrival")


class Place:
    """One request's place in the line, and which replicas have failed it.

    ``arrival`` orders the line. ``may_return`` says that it has waited long enough to be sent to a replica
    that failed it before, should there be no other. ``admitted`` is set by the first entry (or by being served
    without one) and exempts from the bound: who was let in once is not turned away for coming back.
    """

    __slots__ = ("admitted", "arrival", "deadline_s", "failed_on", "may_return")

    def __init__(self, arrival: int, *, key="", priority=1, deadline_s=None, tokens=1) -> None:
        self.arrival = arrival
        self.deadline_s = None
        self.failed_on: set[ReplicaId] = set()
        self.may_return = False
        self.admitted = False


Choose = Callable[[Place], RouteTarget | None]
"""Takes a slot for a place on some replica and says on which, or None where there is none for it."""


class Line:
    """At most ``longest`` requests that wait (those that came back excepted), served in order of arrival."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._places: list[Place] = []
        self._served_at_s: deque[float] = deque(maxlen=64)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def full(self) -> bool:
        """Whether the next newcomer would be turned away."""
        return len(self._places) >= self.longest

    def enter(self, place: Place) -> bool:
        """Take a place in the line; False: it is full, and the request must be turned away."""
        if self.full and not place.admitted:
            return False
        place.admitted = True
        insort(self._places, place, key=_BY_ARRIVAL)
        return True

    def leave(self, place: Place) -> None:
        """Give the place up, served or not; nothing happens where it was given up before."""
        if place in self._places:
            self._places.remove(place)

    def assign(self, choose: Choose, now_s: float) -> list[tuple[Place, RouteTarget]]:
        """Serve all that can be served now, in order; those served have left the line.

        One that cannot be served (all that is free has failed it before) does not hold up those behind it.
        """
        served: list[tuple[Place, RouteTarget]] = []
        for place in self._places:
            target = choose(place)
            if target is not None:
                served.append((place, target))
            elif not place.failed_on:
                break  # it would have taken anything: there is nothing free for those behind it either
        if served:
            gone = {id(place) for place, _ in served}
            self._places = [place for place in self._places if id(place) not in gone]
            self._served_at_s.extend([now_s] * len(served))
        return served

    def retry_after_s(self, now_s: float, *, ready: bool, boot_eta_s: float | None, jitter: float) -> int:
        """Whole seconds after which a request that is turned away now has a fair chance.

        With replicas ``ready``: the length of the line over the rate at which it has been moving. With none:
        the time until one is expected (``boot_eta_s``; 10 s where nobody knows). ``jitter``, 0 to 1, spreads
        the answer over a quarter more, so that those turned away together do not come back together.
        """
        if ready:
            wait_s = (len(self._places) + 1) / self._rate_per_s(now_s)
        else:
            wait_s = _UNKNOWN_S if boot_eta_s is None else boot_eta_s
        wait_s = min(max(wait_s, _SHORTEST_S), _LONGEST_S)
        return math.ceil(wait_s * (1 + _SPREAD * jitter))

    def _rate_per_s(self, now_s: float) -> float:
        """Requests served from the line per second, lately; one per second where too few were to tell."""
        recent = [at_s for at_s in self._served_at_s if now_s - at_s <= 60.0]
        if len(recent) < 2:
            return 1.0
        return len(recent) / max(now_s - recent[0], 0.001)

    def expired(self, now_s):
        return []

    def expected_wait_s(self, now_s, **k):
        return 0.0
