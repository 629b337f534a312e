"""The order in which those of one priority are served: fairly between keys, then by arrival. Pure.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): every key has a running sum of the tokens it was served, the
key with the smallest is next, and one that comes back from idleness starts no lower than where the others are.

Those that the same replicas have failed stand in one lot. What is free suits all of a lot or none, so that one
refusal settles it for thousands, and a round costs by lots and not by places.
"""

from collections import deque
from collections.abc import Container
from heapq import heapify, heappop, heappush, heapreplace

from hedgeserve.proxy.place import Place
from hedgeserve.replica import ReplicaId

Needs = tuple[frozenset[ReplicaId], bool, frozenset[int] | None, bool]
"""Which replicas a place is not to be sent to, and whether it may be if there is no other; which versions it may
be sent to (None: any), and whether it goes on with an answer of theirs."""

ANY: Needs = (frozenset(), False, None, False)


def needs_of(place: Place) -> Needs:
    """The lot in which it stands."""
    if place.versions is None and not place.failed_on:
        return ANY
    failed_on = frozenset(place.failed_on)
    return failed_on, place.may_return and bool(failed_on), place.versions, place.resuming


class Stay:
    """One stay of a place in the line.

    ``number`` is that of its newest item in a heap, 0 once the stay has ended: older items are swept out later.
    """

    __slots__ = ("needs", "number", "place", "rank", "since_s")

    def __init__(self, place: Place, rank: "Rank") -> None:
        self.place = place
        self.rank = rank
        self.needs = ANY
        self.number = 0
        self.since_s: float | None = None


class _Account:
    """What one key was served. ``start``: tokens before its next place; ``flows``: lots in which it has places."""

    __slots__ = ("flows", "key", "start")

    def __init__(self, key: str, start: int) -> None:
        self.key = key
        self.start = start
        self.flows = 0


class _Flow:
    """What waits of one key in one lot."""

    __slots__ = ("account", "version", "waiting")

    def __init__(self, account: _Account) -> None:
        self.account = account
        self.version = 0
        self.waiting: list[tuple[int, int, Stay]] = []  # an item counts if it has the stay's number


class Lot:
    """Those of one rank that need the same."""

    __slots__ = ("flows", "needs", "order")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.flows: dict[str, _Flow] = {}
        self.order: list[tuple[int, int, int, _Flow]] = []  # an entry counts if it has the flow's version


class Rank:
    """Those of one priority. ``turn`` is its own sum of tokens, for its turns among the ranks."""

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.turn = 0
        self._served_to = 0
        self._accounts: dict[str, _Account] = {}
        self._debts: dict[str, int] = {}  # sums of idle keys that are ahead of the others
        self._lots: dict[Needs, Lot] = {}
        self._entered: deque[Stay] = deque()
        self._version = 0

    def enter(self, stay: Stay, number: int) -> None:
        """It waits from now on."""
        self._entered.append(stay)
        self.put(stay, number)

    def put(self, stay: Stay, number: int) -> None:
        """Let it stand in the lot of its needs, and in no other; ``number`` is used once."""
        stay.number = number
        needs = stay.needs = needs_of(stay.place)
        lot = self._lots.get(needs)
        if lot is None:
            lot = self._lots[needs] = Lot(needs)
        key = stay.place.key
        flow = lot.flows.get(key)
        if flow is None:
            flow = lot.flows[key] = _Flow(self._account(key))
            flow.account.flows += 1
        item = (stay.place.arrival, number, stay)
        heappush(flow.waiting, item)
        if flow.waiting[0] is item:
            heappush(lot.order, self._ordered(flow))

    def first(self, refused: Container[Needs]) -> tuple[Lot, Place] | None:
        """Whose turn it is, leaving out the lots that were ``refused``."""
        best: Lot | None = None
        for needs, lot in tuple(self._lots.items()):
            if needs in refused:
                continue
            if not self._settle(lot):
                del self._lots[needs]
            elif best is None or lot.order[0][:2] < best.order[0][:2]:
                best = lot
        return None if best is None else (best, best.order[0][3].waiting[0][2].place)

    def serve_first(self, lot: Lot) -> None:
        """The first of this lot is served: its key pays for it."""
        flow = lot.order[0][3]
        account = flow.account
        # A key whose lot was refused for long is behind the others: those who come now do not begin there.
        self._served_to = max(self._served_to, account.start)
        account.start += heappop(flow.waiting)[2].place.tokens
        if flow.waiting:
            heapreplace(lot.order, self._ordered(flow))
        else:
            self._idle(lot, flow)

    def waited_s(self, now_s: float) -> float:
        """How long the one that entered first has waited."""
        entered = self._entered
        while entered and not entered[0].number:
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
        self._entered = deque(stay for stay in self._entered if stay.number)
        for needs, lot in tuple(self._lots.items()):
            for flow in tuple(lot.flows.values()):
                flow.waiting = [item for item in flow.waiting if item[1] == item[2].number]
                heapify(flow.waiting)
                if not flow.waiting:
                    self._idle(lot, flow)
            lot.order = [self._ordered(flow) for flow in lot.flows.values()]
            heapify(lot.order)
            if not lot.order:
                del self._lots[needs]
        self._debts = {key: start for key, start in self._debts.items() if start > self._served_to}

    def _settle(self, lot: Lot) -> bool:
        """Whether anybody waits in the lot; if so, the first is on top of its order."""
        order = lot.order
        while order:
            start, arrival, version, flow = order[0]
            if version != flow.version:
                heappop(order)
                continue
            waiting = flow.waiting
            while waiting and waiting[0][1] != waiting[0][2].number:
                heappop(waiting)
            if not waiting:
                self._idle(lot, flow)
            elif waiting[0][0] != arrival or flow.account.start != start:
                # Either only grows while the entry stands, so what is on top and right is the smallest of all.
                heapreplace(order, self._ordered(flow))
            else:
                return True
        return False

    def _ordered(self, flow: _Flow) -> tuple[int, int, int, _Flow]:
        self._version += 1
        flow.version = self._version
        return flow.account.start, flow.waiting[0][0], flow.version, flow

    def _account(self, key: str) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            start = max(self._served_to, self._debts.pop(key, 0))
            account = self._accounts[key] = _Account(key, start)
        return account

    def _idle(self, lot: Lot, flow: _Flow) -> None:
        """Nothing of a key waits in this lot."""
        flow.version = 0
        account = flow.account
        del lot.flows[account.key]
        account.flows -= 1
        if account.flows:
            return
        del self._accounts[account.key]
        if not self._accounts:
            # Nobody waits: all begin anew as equals.
            self._debts.clear()
            self._served_to = 0
        elif account.start > self._served_to:
            self._debts[account.key] = account.start
