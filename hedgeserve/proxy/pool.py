"""The replicas as requests see them: what each is answering, which failed lately, which have vanished.

Counts belong to an incarnation, and only a :class:`Lease` moves them: it counts up when it is made, down when it
is released, once. An id that vanishes and comes back (a server that somebody else runs) is a new incarnation.
"""

import asyncio
import math
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from hedgeserve.proxy.breaker import Breaker
from hedgeserve.proxy.routing import Candidate, Router, Wants
from hedgeserve.proxy.wire import Endpoint
from hedgeserve.replica import ReplicaId, RouteTarget, RoutingSnapshot

_MOST_TALLIES = 16


class Tally:
    """What the replicas of one version have done with requests, while nothing took them away.

    ``failed`` are attempts that a replica answered with an error of its own, not those that died with it.
    """

    __slots__ = ("failed", "refused", "served")

    def __init__(self) -> None:
        self.served = 0
        self.refused = 0
        self.failed = 0


class Incarnation:
    """One target from the snapshot in which it appeared to the one in which it is missing.

    ``beats`` grows whenever anything comes from it, of whatever request: silence of all of them is told by it.
    ``silent`` is one from which nothing has come since it was suspected, ``suspected`` one that is being asked.
    """

    __slots__ = (
        "answers",
        "breaker",
        "candidate",
        "endpoint",
        "leases",
        "shunned_until_s",
        "silent",
        "suspected",
        "tally",
        "vanished",
    )

    def __init__(self, target: RouteTarget, endpoint: Endpoint, tally: Tally) -> None:
        self.tally = tally
        self.candidate = Candidate(target)
        self.endpoint = endpoint
        self.breaker = Breaker()
        self.leases: set[Lease] = set()
        self.answers = 0
        self.shunned_until_s = 0.0
        self.silent = False
        self.suspected = False
        self.vanished = False

    @property
    def target(self) -> RouteTarget:
        """The replica as the last snapshot showed it."""
        return self.candidate.target

    @property
    def beats(self) -> int:
        """A sign of life."""
        return self.answers + self.endpoint.past_beats + sum(link.beats for link in self.endpoint.links)

    def shun(self, until_s: float) -> None:
        """Let others come first until then; while it is silent that has no end."""
        self.shunned_until_s = until_s
        self.candidate.shunned_until_s = math.inf if self.silent else until_s


class Holder(Protocol):
    """Whose slot it is; named and not called back, for a method that is kept is an object more."""

    def vanished(self) -> None:
        """The replica is gone, or given up."""


class Lease:
    """One attempt's slot on one incarnation; to be released at the end, whatever happens.

    Its ``holder`` is told at once when the incarnation leaves the snapshot or is given up.
    """

    __slots__ = ("_pool", "holder", "incarnation", "released", "tokens")

    def __init__(self, pool: "Pool", incarnation: Incarnation, tokens: int) -> None:
        self._pool = pool
        self.incarnation = incarnation
        self.holder: Holder | None = None
        self.released = False
        self.tokens = tokens
        incarnation.leases.add(self)
        incarnation.candidate.requests += 1
        incarnation.candidate.tokens += tokens

    @property
    def target(self) -> RouteTarget:
        """The replica, as the last snapshot showed it."""
        return self.incarnation.candidate.target

    @property
    def vanished(self) -> bool:
        """Whether the replica is gone."""
        return self.incarnation.vanished

    def expect(self, tokens: int) -> None:
        """So much work is still to be done for this attempt."""
        if not self.released:
            self.incarnation.candidate.tokens += tokens - self.tokens
            self.tokens = tokens

    def failed(self, *, by_word: bool = False) -> None:
        """The replica failed this attempt: others come first for a while, longer each time in a row.

        ``by_word``: it said so itself. Of one that is being taken away even that says nothing of its version.
        """
        self._pool.shun(self.incarnation)
        target = self.incarnation.candidate.target
        if by_word and target.accepting and target.preferred:
            self.incarnation.tally.failed += 1

    def worked(self, *, refused: bool = False) -> None:
        """The replica has answered, if only with a refusal: it is as good as any."""
        if refused:
            self.incarnation.tally.refused += 1
        else:
            self.incarnation.tally.served += 1
        if self.incarnation.candidate.shunned_until_s:
            self.incarnation.breaker.worked()
            self.incarnation.silent = False
            self.incarnation.shun(0.0)

    def release(self) -> None:
        """Give the slot back; a second time does nothing."""
        if not self.released:
            self.released = True
            self._pool.released(self, self.incarnation)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Pool:
    """All incarnations that the balancer knows, and the slots that requests hold on them.

    ``on_free`` is called whenever a slot becomes free or the replicas change. ``now_s`` is a monotonic clock.
    ``own_trust`` is what replicas with ``own_tls`` are verified with.
    """

    def __init__(
        self,
        router: Router,
        *,
        limit: int,
        now_s: Callable[[], float],
        on_free: Callable[[], None],
        own_trust: ssl.SSLContext | None = None,
    ) -> None:
        self._router = router
        self._limit = limit
        self._now_s = now_s
        self._on_free = on_free
        self._own_trust = own_trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which believes nobody
        self._public_trust: ssl.SSLContext | None = None
        self._known: dict[ReplicaId, Incarnation] = {}
        self._by_candidate: dict[int, Incarnation] = {}
        self._candidates: list[Candidate] = []
        self._leaving: list[Incarnation] = []
        self._uses = 0
        self._idle: dict[ReplicaId, asyncio.Event] = {}
        self._version = -1
        self._coming: frozenset[int] = frozenset()
        self._tallies: dict[int, Tally] = {}
        self.ready = False
        """Whether any replica takes new requests."""

    def adopt(self, router: Router, *, limit: int) -> None:
        """Choose by this router and bound from now on; what is under way stays where it is."""
        self._router = router
        self._limit = limit
        self._on_free()

    @property
    def in_flight(self) -> int:
        """Requests that replicas are answering, all together."""
        return sum(len(incarnation.leases) for incarnation in (*self._known.values(), *self._leaving))

    @property
    def shunned(self) -> int:
        """Replicas that others come before, since they have failed or fallen silent."""
        now_s = self._now_s()
        return sum(incarnation.candidate.shunned_until_s > now_s for incarnation in self._known.values())

    @property
    def incarnations(self) -> tuple[Incarnation, ...]:
        """All that the last snapshot showed."""
        return tuple(self._known.values())

    @property
    def tallies(self) -> dict[int, Tally]:
        """What the versions that were lately here have done, by version."""
        return dict(self._tallies)

    def bound_to(self, version: int) -> frozenset[int] | None:
        """The versions that an answer which this one began may be continued by; None: there is no other.

        Where one version alone runs, servers that somebody else runs (version 0) are taken to run the same.
        """
        versions = {one.target.version for one in self._known.values()} | {version}
        return frozenset((version,)) if len(versions - {0}) > 1 else None

    def may_have(self, versions: frozenset[int], *, resuming: bool) -> bool:
        """Whether a replica of these versions takes requests, or is on its way up."""
        return not versions.isdisjoint(self._coming) or any(
            one.target.version in versions and (one.target.accepting or (resuming and one.target.resumes))
            for one in self._known.values()
        )

    def has(self, replica: ReplicaId) -> bool:
        """Whether this replica is in the snapshot and takes new requests."""
        incarnation = self._known.get(replica)
        return incarnation is not None and incarnation.target.accepting

    def update(self, snapshot: RoutingSnapshot) -> None:
        """Take over a snapshot; what is missing in it has vanished. An older one than the last is ignored."""
        if snapshot.version < self._version:
            return
        self._version = snapshot.version
        self._coming = snapshot.coming
        before = self._known
        self._known = {}
        for target in snapshot.targets:
            incarnation = before.get(target.id)
            if incarnation is None or incarnation.target.url != target.url:
                endpoint = Endpoint.of(target, self._own_trust, self._get_public_trust)
                incarnation = Incarnation(target, endpoint, self._tally(target.version))
            else:
                del before[target.id]
                self._renew(incarnation, target)
            self._known[target.id] = incarnation
        self._candidates = [incarnation.candidate for incarnation in self._known.values()]
        self._by_candidate = {id(each.candidate): each for each in self._known.values()}
        self.ready = any(incarnation.target.accepting for incarnation in self._known.values())
        for incarnation in before.values():
            self._vanish(incarnation)
        self._on_free()

    def _tally(self, version: int) -> Tally:
        tally = self._tallies.pop(version, None) or Tally()
        self._tallies[version] = tally  # the one that came last stands last
        while len(self._tallies) > _MOST_TALLIES:
            del self._tallies[next(iter(self._tallies))]
        return tally

    def _renew(self, incarnation: Incarnation, target: RouteTarget) -> None:
        old = incarnation.target
        if (old.api_key, old.own_tls) != (target.api_key, target.own_tls):
            incarnation.endpoint.close()
            incarnation.endpoint = Endpoint.of(target, self._own_trust, self._get_public_trust)
        incarnation.candidate.show(target)

    def take(self, wants: Wants) -> Lease | None:
        """A slot on the best replica for a request; None while there is none."""
        candidate = self._router.pick(self._candidates, wants, limit=self._limit, now_s=self._now_s())
        if candidate is None:
            return None
        self._uses += 1
        candidate.last_used = self._uses
        return Lease(self, self._by_candidate[id(candidate)], wants.tokens)

    def outstanding(self, replica: ReplicaId) -> int:
        """How many requests this replica is answering; 0 for one that was never seen."""
        known = self._known.get(replica)
        leaving = sum(len(incarnation.leases) for incarnation in self._leaving if incarnation.target.id == replica)
        return leaving + (len(known.leases) if known else 0)

    async def wait_idle(self, replica: ReplicaId) -> None:
        """Return once this replica is answering none."""
        while self.outstanding(replica):
            await self._idle.setdefault(replica, asyncio.Event()).wait()

    def shun(self, incarnation: Incarnation) -> None:
        """Send requests elsewhere first, for as long as its breaker says."""
        incarnation.shun(incarnation.breaker.failed(self._now_s()))

    def suspect(self, incarnation: Incarnation) -> None:
        """It may be gone: others come first until it has said something."""
        incarnation.silent = True
        incarnation.shun(incarnation.shunned_until_s)

    def trust(self, incarnation: Incarnation) -> None:
        """It has said something: it is as good as it was."""
        incarnation.silent = False
        incarnation.shun(incarnation.shunned_until_s)
        self._on_free()

    def give_up(self, incarnation: Incarnation) -> None:
        """It does not answer any more: all that it was answering fails now, and others come first until it does.

        It may come back (the snapshot still shows it): only the fleet, which asks its cloud, can say that it is
        gone.
        """
        self.suspect(incarnation)
        self._tell_leases(incarnation)
        for link in tuple(incarnation.endpoint.links):
            link.abort()

    def close(self) -> None:
        """Close all connections."""
        for incarnation in (*self._known.values(), *self._leaving):
            incarnation.endpoint.close()
            for link in tuple(incarnation.endpoint.links):
                link.abort()

    def released(self, lease: Lease, incarnation: Incarnation) -> None:
        """Called by the lease, once."""
        incarnation.leases.discard(lease)
        incarnation.candidate.requests -= 1
        incarnation.candidate.tokens -= lease.tokens
        if not incarnation.leases and incarnation.vanished:
            self._leaving.remove(incarnation)
        replica = incarnation.target.id
        if replica in self._idle and not self.outstanding(replica):
            self._idle.pop(replica).set()
        self._on_free()

    def _vanish(self, incarnation: Incarnation) -> None:
        incarnation.vanished = True
        incarnation.endpoint.close()
        self._router.forget(incarnation.target.id)
        if incarnation.leases:
            self._leaving.append(incarnation)
        self._tell_leases(incarnation)

    @staticmethod
    def _tell_leases(incarnation: Incarnation) -> None:
        for lease in tuple(incarnation.leases):
            holder, lease.holder = lease.holder, None  # once, though it be given up first and gone then
            if holder is not None:
                holder.vanished()

    def _get_public_trust(self) -> ssl.SSLContext:
        if self._public_trust is None:
            self._public_trust = ssl.create_default_context()
        return self._public_trust
