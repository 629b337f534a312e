"""The waiting line: who may wait, who is served next, when somebody turned away should come back. Pure.

By priority; among equals fairly between API keys; for one key first come, first served. A request that a replica
failed goes back to where it stood, ahead of all that came after it.

Fair is meant in tokens: of two keys that always have somebody waiting neither gets ahead of the other by more than
one request (start-time fair queueing; Goyal, Vin and Cheng, SIGCOMM 1996). One that was away has no credit for it.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from operator import attrgetter

from hedgeserve.replica import ReplicaId, RouteTarget

_SHORTEST_S = 1.0
_LONGEST_S = 300.0
_UNKNOWN_S = 10.0
_SPREAD = 0.25
_RISES_AFTER_S = 30.0
_BY_ARRIVAL = attrgetter("arrival")


class Place:
    """One request's place in the line, and which replicas have failed it.

    ``arrival`` orders those of one ``key``, ``priority`` (higher goes first) and ``key`` all of them; ``tokens``
    is what it will cost. From ``deadline_s`` on it need not be served any more. ``may_return`` says that it has
    waited long enough to be sent to a replica that failed it before, should there be no other. ``admitted`` is set
    by the first entry (or by being served without one) and exempts from the bound: who was let in once is not
    turned away for coming back.
    """

    __slots__ = (
        "admitted",
        "arrival",
        "deadline_s",
        "failed_on",
        "key",
        "may_return",
        "priority",
        "since_s",
        "tokens",
        "waits",
    )

    def __init__(
        self, arrival: int, *, key: str = "", priority: int = 1, deadline_s: float | None = None, tokens: int = 1
    ) -> None:
        self.arrival = arrival
        self.key = key
        self.priority = priority
        self.deadline_s = deadline_s
        self.tokens = tokens
        self.failed_on: set[ReplicaId] = set()
        self.may_return = False
        self.admitted = False
        self.since_s: float | None = None
        self.waits = False


Choose = Callable[[Place], RouteTarget | None]
"""Takes a slot for a place on some replica and says on which, or None where there is none for it."""


class Line:
    """At most ``longest`` requests that wait, those that came back excepted.

    A request that has waited for 30 s is served as if its priority were one higher, after a minute two, and so on:
    nobody starves.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._count = 0
        self._queues: dict[tuple[str, int], list[Place]] = {}
        self._new: list[Place] = []
        self._dated: set[Place] = set()
        self._virtual = 0.0
        self._finish: dict[str, float] = {}
        self._served_at_s: deque[float] = deque(maxlen=64)

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether the next newcomer would be turned away."""
        return self._count >= self.longest

    def enter(self, place: Place) -> bool:
        """Take a place in the line; False: it is full, and the request must be turned away."""
        if self.full and not place.admitted:
            return False
        place.admitted = place.waits = True
        insort(self._queues.setdefault((place.key, place.priority), []), place, key=_BY_ARRIVAL)
        self._count += 1
        if place.since_s is None:
            self._new.append(place)
        if place.deadline_s is not None:
            self._dated.add(place)
        return True

    def leave(self, place: Place) -> None:
        """Give the place up, served or not; nothing happens where it was given up before."""
        if not place.waits:
            return
        place.waits = False
        queue = self._queues[place.key, place.priority]
        del queue[bisect_left(queue, place.arrival, key=_BY_ARRIVAL)]
        if not queue:
            del self._queues[place.key, place.priority]
        self._dated.discard(place)
        self._count -= 1
        if not self._count:  # everybody starts anew
            self._finish.clear()
            self._virtual = 0.0

    def assign(self, choose: Choose, now_s: float) -> list[tuple[Place, RouteTarget]]:
        """Serve all that can be served now, in order; those served have left the line.

        One that cannot be served (all that is free has failed it before) does not hold up those behind it.
        """
        for place in self._new:
            place.since_s = now_s
        self._new.clear()
        heads = [self._head(queue, 0, now_s) for queue in self._queues.values()]
        heapify(heads)
        served: list[tuple[Place, RouteTarget]] = []
        while heads:
            _, start, _, index, queue = heappop(heads)
            place = queue[index]
            target = choose(place)
            if target is None:
                if not place.failed_on:
                    break  # it would have taken anything: there is nothing free for those behind it either
            else:
                served.append((place, target))
                self._virtual = max(self._virtual, start)
                self._finish[place.key] = start + max(1, place.tokens)
            if index + 1 < len(queue):
                heappush(heads, self._head(queue, index + 1, now_s))
        for place, _ in served:
            self.leave(place)
        self._served_at_s.extend([now_s] * len(served))
        return served

    def expired(self, now_s: float) -> list[Place]:
        """Those whose deadline has passed; they have left the line."""
        late = [place for place in self._dated if place.deadline_s is not None and place.deadline_s <= now_s]
        for place in late:
            self.leave(place)
        return late

    def expected_wait_s(self, now_s: float, *, ready: bool, boot_eta_s: float | None) -> float:
        """How long a newcomer of ordinary priority must expect to wait.

        With replicas ``ready``: the length of the line over the rate at which it has been moving. With none: the
        time until one is expected (``boot_eta_s``; 10 s where nobody knows).
        """
        if ready:
            return self._count / self._rate_per_s(now_s)
        return _UNKNOWN_S if boot_eta_s is None else boot_eta_s

    def retry_after_s(self, now_s: float, *, ready: bool, boot_eta_s: float | None, jitter: float) -> int:
        """Whole seconds after which a request that is turned away now has a fair chance.

        ``jitter``, 0 to 1, spreads the answer over a quarter more, so that those turned away together do not come
        back together.
        """
        wait_s = self.expected_wait_s(now_s, ready=ready, boot_eta_s=boot_eta_s)
        if ready:
            wait_s += 1 / self._rate_per_s(now_s)
        wait_s = min(max(wait_s, _SHORTEST_S), _LONGEST_S)
        return math.ceil(wait_s * (1 + _SPREAD * jitter))

    def _head(self, queue: list[Place], index: int, now_s: float) -> tuple[int, float, int, int, list[Place]]:
        """A place as it is compared with others; no two have the same arrival."""
        place = queue[index]
        waited_s = now_s - (now_s if place.since_s is None else place.since_s)
        start = max(self._virtual, self._finish.get(place.key, 0.0))
        return -(place.priority + int(waited_s / _RISES_AFTER_S)), start, place.arrival, index, queue

    def _rate_per_s(self, now_s: float) -> float:
        """Requests served from the line per second, lately; one per second where too few were to tell."""
        recent = [at_s for at_s in self._served_at_s if now_s - at_s <= 60.0]
        if len(recent) < 2:
            return 1.0
        return len(recent) / max(now_s - recent[0], 0.001)
