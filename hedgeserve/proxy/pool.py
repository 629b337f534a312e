"""The replicas as requests see them: what each is answering, which failed lately, which have vanished.

Counts belong to an incarnation, and only a :class:`Lease` moves them: it counts up when it is made, down when it
is released, once. An id that vanishes and comes back (a server that somebody else runs) is a new incarnation.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hedgeserve.proxy.routing import pick
from hedgeserve.replica import ReplicaId, RouteTarget, RoutingSnapshot

_FIRST_SHUN_S = 1.0
_LONGEST_SHUN_S = 15.0


@dataclass(slots=True, eq=False)
class _Incarnation:
    """One target from the snapshot in which it appeared to the one in which it is missing."""

    target: RouteTarget
    leases: set["Lease"] = field(default_factory=set)
    last_used: int = 0
    failures: int = 0
    shunned_until_s: float = 0.0
    vanished: bool = False


class Lease:
    """One attempt's slot on one incarnation; as a context manager it is given back at the end, whatever happens.

    ``on_vanish`` is called at once when the incarnation leaves the snapshot.
    """

    __slots__ = ("_incarnation", "_pool", "on_vanish", "released", "target")

    def __init__(self, pool: "Pool", incarnation: _Incarnation) -> None:
        self.target = incarnation.target
        self.on_vanish: Callable[[], None] | None = None
        self.released = False
        self._pool = pool
        self._incarnation = incarnation

    @property
    def vanished(self) -> bool:
        """Whether the replica is gone."""
        return self._incarnation.vanished

    def failed(self) -> None:
        """The replica failed this attempt: others come first for a while, longer each time in a row."""
        self._pool.shun(self._incarnation)

    def worked(self) -> None:
        """The replica has answered: it is as good as any."""
        self._incarnation.failures = 0
        self._incarnation.shunned_until_s = 0.0

    def release(self) -> None:
        """Give the slot back; a second time does nothing."""
        if not self.released:
            self.released = True
            self._pool.released(self, self._incarnation)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Pool:
    """All incarnations that the balancer knows, and the slots that requests hold on them.

    ``on_free`` is called whenever a slot becomes free or the replicas change. ``now_s`` is a monotonic clock.
    """

    def __init__(self, *, limit: int, now_s: Callable[[], float], on_free: Callable[[], None]) -> None:
        self._limit = limit
        self._now_s = now_s
        self._on_free = on_free
        self._known: dict[ReplicaId, _Incarnation] = {}
        self._leaving: list[_Incarnation] = []
        self._uses = 0
        self._idle: dict[ReplicaId, asyncio.Event] = {}
        self._version = -1

    @property
    def ready(self) -> bool:
        """Whether any replica takes new requests."""
        return any(incarnation.target.accepting for incarnation in self._known.values())

    @property
    def in_flight(self) -> int:
        """Requests that replicas are answering, all together."""
        return sum(len(incarnation.leases) for incarnation in (*self._known.values(), *self._leaving))

    def has(self, replica: ReplicaId) -> bool:
        """Whether this replica is in the snapshot and takes new requests."""
        incarnation = self._known.get(replica)
        return incarnation is not None and incarnation.target.accepting

    def update(self, snapshot: RoutingSnapshot) -> None:
        """Take over a snapshot; what is missing in it has vanished. An older one than the last is ignored."""
        if snapshot.version < self._version:
            return
        self._version = snapshot.version
        before = self._known
        self._known = {}
        for target in snapshot.targets:
            incarnation = before.get(target.id)
            if incarnation is None or incarnation.target.url != target.url:
                incarnation = _Incarnation(target)
            else:
                del before[target.id]
                incarnation.target = target
            self._known[target.id] = incarnation
        for incarnation in before.values():
            self._vanish(incarnation)
        self._on_free()

    def take(self, failed_on: Collection[ReplicaId], *, may_return: bool) -> Lease | None:
        """A slot on the best replica for a request that ``failed_on`` these; None while there is none."""
        now_s = self._now_s()
        target = pick(
            [incarnation.target for incarnation in self._known.values()],
            {replica: len(incarnation.leases) for replica, incarnation in self._known.items()},
            failed_on,
            limit=self._limit,
            last_used={replica: incarnation.last_used for replica, incarnation in self._known.items()},
            shunned=[
                replica for replica, incarnation in self._known.items() if incarnation.shunned_until_s > now_s
            ],
            fall_back=may_return,
        )
        if target is None:
            return None
        incarnation = self._known[target.id]
        self._uses += 1
        incarnation.last_used = self._uses
        lease = Lease(self, incarnation)
        incarnation.leases.add(lease)
        return lease

    def outstanding(self, replica: ReplicaId) -> int:
        """How many requests this replica is answering; 0 for one that was never seen."""
        known = self._known.get(replica)
        leaving = sum(len(incarnation.leases) for incarnation in self._leaving if incarnation.target.id == replica)
        return leaving + (len(known.leases) if known else 0)

    async def wait_idle(self, replica: ReplicaId) -> None:
        """Return once this replica is answering none."""
        while self.outstanding(replica):
            await self._idle.setdefault(replica, asyncio.Event()).wait()

    def shun(self, incarnation: _Incarnation) -> None:
        """Send requests elsewhere first for 1 s, twice as long for each further failure in a row, 15 s at most."""
        pause_s = min(_FIRST_SHUN_S * 2**incarnation.failures, _LONGEST_SHUN_S)
        incarnation.failures = min(incarnation.failures + 1, 8)
        incarnation.shunned_until_s = self._now_s() + pause_s

    def released(self, lease: Lease, incarnation: _Incarnation) -> None:
        """Called by the lease, once."""
        incarnation.leases.discard(lease)
        if not incarnation.leases and incarnation.vanished:
            self._leaving.remove(incarnation)
        replica = incarnation.target.id
        if replica in self._idle and not self.outstanding(replica):
            self._idle.pop(replica).set()
        self._on_free()

    def _vanish(self, incarnation: _Incarnation) -> None:
        incarnation.vanished = True
        if incarnation.leases:
            self._leaving.append(incarnation)
        for lease in tuple(incarnation.leases):
            if lease.on_vanish is not None:
                lease.on_vanish()
