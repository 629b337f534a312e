"""The waiting line: who may wait, who is served next, when somebody turned away should come back. Pure.

By priority, then fairly between keys, then by time of arrival: a request that a replica failed goes back to where
it stood, ahead of all of its key that came after it.

Fair is start-time fair queueing: every key has a running sum of the tokens it was served, the key with the
smallest is next, and one that comes back from idleness starts no lower than where the others are. Nobody starves:
while the oldest of a priority has waited for 30 s, that priority counts as the next higher one, and priorities
that count the same take turns, again by tokens. A whole priority rises, not the single place, since otherwise a
key with thousands of old places would push aside those of its equals who ask for little.
"""

import math
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace

from hedgeserve.replica import ReplicaId, RouteTarget

_SHORTEST_S = 1.0
_LONGEST_S = 300.0
_UNKNOWN_S = 10.0
_SPREAD = 0.25
_RECENT_S = 60.0
_RISES_AFTER_S = 30.0
_HIGHEST = 2
_MOST_GONE = 64


class Place:
    """One request's place in the line, and which replicas have failed it.

    ``arrival`` orders those of one ``key``. ``priority`` is 0 (low), 1 (normal) or 2 (high), ``tokens`` what it
    is thought to cost; after ``deadline_s`` it is not served any more. ``may_return`` says that it has waited
    long enough to be sent to a replica that failed it before, should there be no other. ``admitted`` is set by
    the first entry (or by being served without one) and exempts from the bound: who was let in once is not
    turned away for coming back.
    """

    __slots__ = ("admitted", "arrival", "deadline_s", "failed_on", "key", "may_return", "priority", "tokens")

    def __init__(
        self,
        arrival: int,
        *,
        key: str = "",
        priority: int = 1,
        deadline_s: float | None = None,
        tokens: int = 1,
    ) -> None:
        self.arrival = arrival
        self.key = key
        self.priority = min(max(priority, 0), _HIGHEST)
        self.deadline_s = deadline_s
        self.tokens = max(tokens, 1)
        self.failed_on: set[ReplicaId] = set()
        self.may_return = False
        self.admitted = False


Choose = Callable[[Place], RouteTarget | None]
"""Takes a slot for a place on some replica and says on which, or None where there is none for it.

It must not touch the line."""


class _Stay:
    """One stay of a place in the line; ``here`` until it ends. What has ended is swept out of the heaps later."""

    __slots__ = ("here", "number", "place", "rank", "since_s")

    def __init__(self, place: Place, rank: "_Rank", number: int) -> None:
        self.place = place
        self.rank = rank
        self.number = number
        self.since_s: float | None = None
        self.here = True


class _Flow:
    """What waits of one key and priority. ``start``: tokens it was served, or forgone, before its next place."""

    __slots__ = ("key", "start", "version", "waiting")

    def __init__(self, key: str, start: int) -> None:
        self.key = key
        self.start = start
        self.version = 0
        self.waiting: list[tuple[int, int, _Stay]] = []


class _Rank:
    """Those of one priority, fairly between keys. ``turn`` is its own sum, for its turns among the ranks."""

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.turn = 0
        self._served_to = 0
        self._flows: dict[str, _Flow] = {}
        self._debts: dict[str, int] = {}  # sums of idle keys that are ahead of the others
        self._order: list[tuple[int, int, int, _Flow]] = []  # an entry counts if it has the flow's version
        self._entered: deque[_Stay] = deque()
        self._version = 0

    def enter(self, stay: _Stay) -> None:
        self._entered.append(stay)
        self.put(stay)

    def put(self, stay: _Stay) -> None:
        """Let it be served in its turn; for a new one, and for one that was put aside."""
        key = stay.place.key
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow(key, max(self._served_to, self._debts.pop(key, 0)))
        item = (stay.place.arrival, stay.number, stay)
        heappush(flow.waiting, item)
        if flow.waiting[0] is item:
            heappush(self._order, self._ordered(flow))

    def first(self) -> Place | None:
        """Whose turn it is."""
        order = self._order
        while order:
            _, arrival, version, flow = order[0]
            if version != flow.version:
                heappop(order)
                continue
            waiting = flow.waiting
            while waiting and not waiting[0][2].here:
                heappop(waiting)
            if not waiting:
                self._idle(flow)
            elif waiting[0][0] != arrival:
                heapreplace(order, self._ordered(flow))
            else:
                return waiting[0][2].place
        return None

    def serve_first(self) -> None:
        """It is served: its key pays for it."""
        flow = self._order[0][3]
        self._served_to = flow.start
        flow.start += heappop(flow.waiting)[2].place.tokens
        self._next_of(flow)

    def put_first_aside(self) -> _Stay:
        """It cannot be served in this round; those behind it may be."""
        flow = self._order[0][3]
        stay = heappop(flow.waiting)[2]
        self._next_of(flow)
        return stay

    def waited_s(self, now_s: float) -> float:
        """How long the one that entered first has waited."""
        entered = self._entered
        while entered and not entered[0].here:
            entered.popleft()
        if not entered or (since_s := entered[0].since_s) is None:
            return 0.0
        return now_s - since_s

    def tell_time(self, now_s: float) -> None:
        """Those who have entered since it was last told wait from now on."""
        for stay in reversed(self._entered):
            if stay.since_s is not None:
                break
            stay.since_s = now_s

    def sweep(self) -> None:
        """Forget all that has left."""
        self._entered = deque(stay for stay in self._entered if stay.here)
        self._debts = {key: start for key, start in self._debts.items() if start > self._served_to}
        for flow in tuple(self._flows.values()):
            flow.waiting = [item for item in flow.waiting if item[2].here]
            heapify(flow.waiting)
            if not flow.waiting:
                self._idle(flow)
        self._order = [self._ordered(flow) for flow in self._flows.values()]
        heapify(self._order)

    def _next_of(self, flow: _Flow) -> None:
        if flow.waiting:
            heapreplace(self._order, self._ordered(flow))
        else:
            self._idle(flow)

    def _ordered(self, flow: _Flow) -> tuple[int, int, int, _Flow]:
        self._version += 1
        flow.version = self._version
        return flow.start, flow.waiting[0][0], flow.version, flow

    def _idle(self, flow: _Flow) -> None:
        flow.version = 0
        del self._flows[flow.key]
        if not self._flows:
            # Nobody waits: all begin anew as equals.
            self._debts.clear()
            self._served_to = 0
        elif flow.start > self._served_to:
            self._debts[flow.key] = flow.start


class Line:
    """At most ``longest`` requests that wait (those that came back excepted)."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._ranks = tuple(_Rank(priority) for priority in range(_HIGHEST, -1, -1))
        self._stays: dict[Place, _Stay] = {}
        self._late: dict[Place, None] = {}  # past their deadline, and not told of yet
        self._deadlines: list[tuple[float, int, _Stay]] = []
        self._entries = 0
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
        self._entries += 1
        stay = _Stay(place, self._ranks[_HIGHEST - place.priority], self._entries)
        self._stays[place] = stay
        stay.rank.enter(stay)
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
        served: list[tuple[Place, RouteTarget]] = []
        aside: list[_Stay] = []
        try:
            while (foremost := self._foremost(now_s)) is not None:
                rank, place = foremost
                target = choose(place)
                if target is not None:
                    rank.serve_first()
                    self._turn = max(rank.turn, self._turn)
                    rank.turn = self._turn + place.tokens
                    self._end(place)
                    served.append((place, target))
                elif place.failed_on:
                    aside.append(rank.put_first_aside())
                else:
                    break  # it would have taken anything: there is nothing free for those behind it either
        finally:
            for stay in aside:
                stay.rank.put(stay)
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

    def _foremost(self, now_s: float) -> tuple[_Rank, Place] | None:
        """The rank that is served next, and its first."""
        best: tuple[_Rank, Place] | None = None
        best_order = 0, 0
        for rank in self._ranks:
            place = rank.first()
            if place is None:
                continue
            level = min(rank.priority + int(rank.waited_s(now_s) / _RISES_AFTER_S), _HIGHEST)
            order = -level, max(rank.turn, self._turn)
            if best is None or order < best_order:
                best, best_order = (rank, place), order
        return best

    def _end(self, place: Place) -> None:
        self._stays.pop(place).here = False
        self._gone += 1

    def _sweep(self) -> None:
        """Once more have left than are here, forget them: each is looked at once or twice in all."""
        if not self._stays and not self._late:
            self._told_s = None
        if self._gone > len(self._stays) + _MOST_GONE:
            self._gone = 0
            for rank in self._ranks:
                rank.sweep()
            self._deadlines = [item for item in self._deadlines if item[2].here]
            heapify(self._deadlines)

    def _tell_time(self, now_s: float) -> None:
        if len(self):
            if self._told_s is not None:
                self._waited_s += max(now_s - self._told_s, 0.0)
            self._told_s = now_s
        for rank in self._ranks:
            rank.tell_time(now_s)
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] < now_s or not deadlines[0][2].here):
            stay = heappop(deadlines)[2]
            if stay.here:
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
