"""The words that all rooms share: zone, offer, replica with its states, notice, routing snapshot.

Everything here is immutable data. A replica changes only through :meth:`Replica.to`, which holds to the one
table of legal transitions; the fleet owns the current value, everybody else is handed copies.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import NewType, Protocol

from hedgeserve.errors import IllegalTransitionError

ReplicaId = NewType("ReplicaId", str)
"""``<service>-<number>``; the number is never used twice, so an id names one incarnation, for ever."""

ZoneId = NewType("ZoneId", str)
"""A failure domain, ``cloud/region/zone``."""


def zones_meant(name: str, zones: Iterable[str]) -> list[ZoneId]:
    """The zone of this name, else all whose name ends so, as ``east/a`` and ``a`` do for ``local/east/a``."""
    there = list(zones)
    found = [name] if name in there else [zone for zone in there if zone.endswith(f"/{name}")]
    return [ZoneId(zone) for zone in found]


class Market(StrEnum):
    """How a VM is paid for. ``EXTERNAL`` replicas are run by somebody else and cost us nothing."""

    SPOT = "spot"
    ON_DEMAND = "on_demand"
    EXTERNAL = "external"


class State(StrEnum):
    """Where a replica is in its life, in the order in which it may get there."""

    PLANNED = "planned"  # the intent is in the journal; no cloud has been asked
    PROVISIONING = "provisioning"  # the cloud has been asked
    BOOTING = "booting"  # a VM exists; SSH does not answer yet
    LOADING = "loading"  # the engine is being installed and started, or is loading weights
    READY = "ready"  # it answered the readiness probe: requests may go there
    NOTICED = "noticed"  # the cloud will take the VM back at a known time; used only if nothing else is ready
    DRAINING = "draining"  # no new requests; the ones it has may finish
    TERMINATING = "terminating"  # the cloud has been asked to take the VM away
    GONE = "gone"  # nothing is left; `gone` says why


class GoneReason(StrEnum):
    """Why a replica is gone; a closed set, for counting. The sentence for people is in ``why``."""

    PREEMPTED = "preempted"
    FAILED = "failed"
    SCALED_DOWN = "scaled_down"
    REPLACED = "replaced"
    REAPED = "reaped"


TRANSITIONS: dict[State, frozenset[State]] = {
    # An external replica has no VM to wait for, hence planned -> loading; when its probe fails we can only
    # wait for it again, hence ready -> loading.
    State.PLANNED: frozenset({State.PROVISIONING, State.LOADING, State.GONE}),
    # provisioning -> gone: the cloud refused, so there is nothing to terminate.
    State.PROVISIONING: frozenset({State.BOOTING, State.TERMINATING, State.GONE}),
    State.BOOTING: frozenset({State.LOADING, State.TERMINATING}),
    State.LOADING: frozenset({State.READY, State.TERMINATING}),
    State.READY: frozenset({State.LOADING, State.NOTICED, State.DRAINING, State.TERMINATING}),
    State.NOTICED: frozenset({State.DRAINING, State.TERMINATING}),
    State.DRAINING: frozenset({State.TERMINATING}),
    State.TERMINATING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}

STARTING = frozenset({State.PLANNED, State.PROVISIONING, State.BOOTING, State.LOADING})
"""States of a replica that costs money (or is about to) and does not serve yet."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A kind of VM that may be launched: a zone, an instance type and a market, at a price read at a time.

    ``throughput`` is what it serves, relative to other kinds: prices are compared per throughput.
    """

    zone: ZoneId
    instance_type: str
    market: Market
    usd_per_hour: float
    read_at: datetime
    throughput: float = 1.0

    @property
    def cloud(self) -> str:
        """The cloud that makes the offer: the first part of its zone."""
        return self.zone.split("/", 1)[0]

    @property
    def usd_per_work(self) -> float:
        """What it costs for an hour's work of an ordinary VM: what prices are compared by, and never paid."""
        return self.usd_per_hour / self.throughput


@dataclass(frozen=True, slots=True)
class Notice:
    """The cloud's word that it will take a VM back: not before ``deadline_s`` on the monotonic clock."""

    deadline_s: float
    source: str


@dataclass(frozen=True, slots=True)
class Replica:
    """One running copy of the model (or one on its way up or down).

    Times that end in ``_s`` are on the process's monotonic clock; ``created_at`` is UTC, for the record.
    ``version`` is what it runs, by the service's own count; 0: it is somebody else's, nobody knows.
    """

    id: ReplicaId
    offer: Offer
    state: State
    since_s: float
    created_at: datetime
    why: str = ""
    vm_id: str | None = None
    url: str | None = None
    ready_since_s: float | None = None
    notice: Notice | None = None
    gone: GoneReason | None = None
    version: int = 0

    @property
    def zone(self) -> ZoneId:
        """Where it runs."""
        return self.offer.zone

    @property
    def market(self) -> Market:
        """How it is paid for."""
        return self.offer.market

    @property
    def alive(self) -> bool:
        """Whether it serves or will, as far as is known: neither noticed nor on its way out."""
        return self.state in STARTING or self.state is State.READY

    def to(
        self,
        state: State,
        *,
        now_s: float,
        why: str,
        gone: GoneReason | None = None,
        vm_id: str | None = None,
        url: str | None = None,
        notice: Notice | None = None,
    ) -> "Replica":
        """The same replica in its next state.

        ``gone`` may be said as soon as the end is decided and is then kept; what is not given is kept too.

        Raises:
            IllegalTransitionError: The table :data:`TRANSITIONS` does not know this step.
        """
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransitionError(f"replica {self.id} cannot go from {self.state} to {state} ({why})")
        return replace(
            self,
            state=state,
            since_s=now_s,
            why=why,
            gone=self.gone or gone,
            vm_id=vm_id or self.vm_id,
            url=url or self.url,
            notice=notice or self.notice,
            ready_since_s=now_s if state is State.READY else (None if state in STARTING else self.ready_since_s),
        )


class Role(StrEnum):
    """What the ready replicas of a version are for, while an update goes on."""

    SERVE = "serve"  # requests go there
    SPARE = "spare"  # only while nothing that serves is ready
    HOLD = "hold"  # nothing new goes there; what is there may finish


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """A replica as the balancer sees it.

    ``accepting`` is false while it drains: what it has may finish, nothing new goes there. ``preferred`` is
    false under a preemption notice: it is used only while nothing better is ready. ``own_tls`` where its
    certificate is from the service's own authority, and from no other. ``ends_at_s`` (monotonic) is when it will
    be taken away, where that is known; ``throughput`` what it serves, relative to other kinds of VM. ``version``
    is what it runs (0: it is somebody else's): answers are continued only where the same is run. ``resumes``: it
    accepts nothing new because of an update, and would go on with an answer that another one of its version began.
    """

    id: ReplicaId
    url: str
    zone: ZoneId
    market: Market
    accepting: bool = True
    preferred: bool = True
    api_key: str | None = field(default=None, repr=False)
    own_tls: bool = False
    ends_at_s: float | None = None
    throughput: float = 1.0
    version: int = 0
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class RoutingSnapshot:
    """All replicas that requests may be on, at one moment. One that is missing here is gone for good.

    ``version`` is the snapshot's own number. ``coming`` are the versions of replicas that are on their way up.
    """

    version: int
    targets: tuple[RouteTarget, ...] = ()
    coming: frozenset[int] = frozenset()


class Traffic(Protocol):
    """What the fleet may know of the requests: enough to drain a replica, no more."""

    def outstanding(self, replica: ReplicaId) -> int:
        """How many requests this replica is answering."""

    async def wait_idle(self, replica: ReplicaId) -> None:
        """Return once this replica is answering none."""
