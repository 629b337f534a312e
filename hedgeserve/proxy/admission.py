"""The waiting line: who may wait, who is served next, when somebody turned away should come back. Pure.

By priority, then fairly between keys (:mod:`hedgeserve.proxy.fairness`), then by time of arrival: a request that a
replica failed goes back to where it stood, ahead of all of its key that came after it.

Nobody starves: while the oldest of a priority has waited for 30 s, that priority counts as the next higher one,
and priorities that count the same take turns, again by tokens. A whole priority rises, not the single place, since
otherwise a key with thousands of old places would push aside those of its equals who ask for little.
"""

import math
from collections import deque
from collections.abc import Callable, Container
from heapq import heapify, heappop, heappush

from hedgeserve.proxy.fairness import ANY, Lot, Needs, Rank, Stay, needs_of
from hedgeserve.proxy.place import HIGHEST, LOWEST, Place
from hedgeserve.replica import RouteTarget

__all__ = ["Choose", "Line", "Place"]

_SHORTEST_S = 1.0
_LONGEST_S = 300.0
_UNKNOWN_S = 10.0
_SPREAD = 0.25
_RECENT_S = 60.0
_RISES_AFTER_S = 30.0
_MOST_GONE = 64

Choose = Callable[[Place], RouteTarget | None]
"""Takes a slot for a place on some replica and says on which, or None where there is none for it.

What is none for one place must be none for all that the same replicas have failed, until something becomes free:
these are not asked for in the same round. It must not touch the line."""


class Line:
    """At most ``longest`` requests that wait (those that came back excepted)."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._ranks = tuple(Rank(priority) for priority in range(HIGHEST, LOWEST - 1, -1))
        self._stays: dict[Place, Stay] = {}
        self._late: dict[Place, None] = {}  # past their deadline, and not told of yet
        self._deadlines: list[tuple[float, int, Stay]] = []
        self._changed: list[Place] = []  # whose needs have changed since the last round
        self._numbers = 0
        self._gone = 0
        self._turn = 0
        # The pace of the line is measured by a clock that stands still while nobody waits.
        self._waited_s = 0.0
        self._told_s: float | None = None
        self._served_at_s: deque[float] = deque(maxlen=64)

    def __len__(self) -> int:
        return len(self._stays) + len(self._late)

    @property
    def full(self) -> bool:
        """Whether the next newcomer would be turned away."""
        return len(self) >= self.longest

    def enter(self, place: Place) -> bool:
        """Take a place in the line; False: it is full, and the request must be turned away."""
        if place in self._stays or place in self._late:
            return True
        if self.full and not place.admitted:
            return False
        place.admitted = True
        stay = self._stays[place] = Stay(place, self._ranks[HIGHEST - place.priority])
        stay.rank.enter(stay, self._number())
        place.watch(self._changed.append)
        if place.deadline_s is not None:
            heappush(self._deadlines, (place.deadline_s, stay.number, stay))
        return True

    def leave(self, place: Place) -> None:
        """Give the place up, served or not; nothing happens where it was given up before."""
        if place in self._stays:
            self._end(place)
        else:
            self._late.pop(place, None)
        self._sweep()

    def assign(self, choose: Choose, now_s: float) -> list[tuple[Place, RouteTarget]]:
        """Serve all that can be served now, in order; those served have left the line.

        One that cannot be served (all that is free has failed it before) does not hold up those behind it. One
        past its deadline is not served: it stays until :meth:`expired` tells of it.
        """
        self._tell_time(now_s)
        self._move_changed()
        served: list[tuple[Place, RouteTarget]] = []
        refused: set[Needs] = set()
        try:
            while (foremost := self._foremost(now_s, refused)) is not None:
                rank, lot, place = foremost
                target = choose(place)
                if target is not None:
                    rank.serve_first(lot)
                    self._turn = max(rank.turn, self._turn)
                    rank.turn = self._turn + place.tokens
                    self._end(place)
                    served.append((place, target))
                elif lot.needs == ANY:
                    break  # it would have taken anything: there is nothing free for those behind it either
                else:
                    refused.add(lot.needs)
        finally:
            self._served_at_s.extend([self._waited_s] * len(served))
            self._sweep()
        return served

    def expired(self, now_s: float) -> list[Place]:
        """Those whose deadline has passed, each told of once; they have left the line."""
        self._tell_time(now_s)
        late = list(self._late)
        self._late.clear()
        self._sweep()
        return late

    def expected_wait_s(self, now_s: float, *, ready: bool, boot_eta_s: float | None) -> float:
        """How long a newcomer must expect to wait, as far as anything is known; 0 where nothing is in its way.

        With replicas ``ready``: the length of the line over its pace, and 0 where it has not moved enough to have
        one, since nobody is to be turned away on a guess. With none: the time until one is expected.
        """
        if not ready:
            return _UNKNOWN_S if boot_eta_s is None else max(boot_eta_s, 0.0)
        pace = self._pace(now_s)
        if not len(self) or pace is None:
            return 0.0
        return (len(self) + 1) / pace

    def retry_after_s(self, now_s: float, *, ready: bool, boot_eta_s: float | None, jitter: float) -> int:
        """Whole seconds after which a request that is turned away now has a fair chance.

        With replicas ``ready``: the length of the line over the rate at which it has been moving (one per second
        where nobody can tell). With none: the time until one is expected (``boot_eta_s``; 10 s where nobody
        knows). ``jitter``, 0 to 1, spreads the answer over a quarter more, so that those turned away together do
        not come back together.
        """
        if ready:
            wait_s = (len(self) + 1) / (self._pace(now_s) or 1.0)
        else:
            wait_s = _UNKNOWN_S if boot_eta_s is None else boot_eta_s
        wait_s = min(max(wait_s, _SHORTEST_S), _LONGEST_S)
        return math.ceil(wait_s * (1 + _SPREAD * jitter))

    def _foremost(self, now_s: float, refused: Container[Needs]) -> tuple[Rank, Lot, Place] | None:
        """The rank that is served next, and its first that was not refused."""
        best: tuple[Rank, Lot, Place] | None = None
        best_order = 0, 0
        for rank in self._ranks:
            first = rank.first(refused)
            if first is None:
                continue
            level = min(rank.priority + int(rank.waited_s(now_s) / _RISES_AFTER_S), HIGHEST)
            order = -level, max(rank.turn, self._turn)
            if best is None or order < best_order:
                best, best_order = (rank, *first), order
        return best

    def _end(self, place: Place) -> None:
        self._stays.pop(place).number = 0
        place.watch(None)
        self._gone += 1

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _move_changed(self) -> None:
        for place in self._changed:
            stay = self._stays.get(place)
            if stay is not None and stay.needs != needs_of(place):
                stay.rank.put(stay, self._number())
                self._gone += 1  # what stands for it in its old lot
        self._changed.clear()

    def _sweep(self) -> None:
        """Once more have left than are here, forget them: each is looked at once or twice in all."""
        if not self._stays and not self._late:
            self._told_s = None
            self._changed.clear()
        if self._gone > len(self._stays) + _MOST_GONE:
            self._gone = 0
            for rank in self._ranks:
                rank.sweep()
            self._deadlines = [item for item in self._deadlines if item[2].number]
            heapify(self._deadlines)

    def _tell_time(self, now_s: float) -> None:
        if len(self):
            if self._told_s is not None:
                self._waited_s += max(now_s - self._told_s, 0.0)
            self._told_s = now_s
        for rank in self._ranks:
            rank.tell_time(now_s)
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] < now_s or not deadlines[0][2].number):
            stay = heappop(deadlines)[2]
            if stay.number:
                self._end(stay.place)
                self._late[stay.place] = None

    def _pace(self, now_s: float) -> float | None:
        """Requests served per second of waiting, lately; None where too few were to tell."""
        waited_s = self._waited_s
        if len(self) and self._told_s is not None:
            waited_s += max(now_s - self._told_s, 0.0)
        recent = [at_s for at_s in self._served_at_s if waited_s - at_s <= _RECENT_S]
        if len(recent) < 2:
            return None
        return len(recent) / max(waited_s - recent[0], 0.001)
