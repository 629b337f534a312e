"""What a policy sees (:class:`Observation`, :class:`ZoneNews`) and what it answers (:class:`Plan`).

Production and simulator hand the same objects to the same policy; a decision carries its rule and its reason,
and the log, the journal, the metrics and the status all read that one object.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, ZoneId


class NewsKind(StrEnum):
    """What may be learnt of a zone. ``QUOTA`` and ``UNSUPPORTED`` say nothing about its capacity."""

    GRANTED = "granted"  # a launch was granted: a VM is there
    READY = "ready"  # a replica there became ready
    REBALANCE = "rebalance"  # the cloud recommends to move elsewhere: a weaker word than a notice
    NOTICE = "notice"  # the cloud announced that it will take one back
    PREEMPTED = "preempted"  # the cloud took one back
    NO_CAPACITY = "no_capacity"  # a launch was refused: the same news as a preemption
    QUOTA = "quota"
    UNSUPPORTED = "unsupported"
    LAUNCH_ERROR = "launch_error"  # the cloud failed in another way (throttled, credentials, unknown)
    REACHABLE = "reachable"  # the cloud did not answer, and does again
    RELEASED = "released"  # we let a VM go of our own accord: it would have held for longer
    BOOT_FAILED = "boot_failed"  # a VM came, but no ready replica out of it: our fault more likely than the zone's
    TAKEN_BACK = "taken_back"  # the version is wanted no more: that its boots failed is forgotten


@dataclass(frozen=True, slots=True)
class ZoneNews:
    """One thing learnt of one zone and market at one time (monotonic seconds).

    ``held_s`` tells, where a VM is there, how long it has been held (of a new replica: its cold start).
    ``lead_s`` tells with a notice how long before the end it came, and with a preemption the same of its notice;
    0 or None: there was none. ``instance_type`` is empty where it is not known. ``staged`` where a drill has
    made it happen: a policy is told it like any other, and what is kept for later runs does not hold it.
    ``version`` is what the replica runs; 0: nobody says.
    """

    zone: ZoneId
    market: Market
    kind: NewsKind
    at_s: float
    detail: str = ""
    held_s: float | None = None
    lead_s: float | None = None
    instance_type: str = ""
    staged: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """The world at one moment, as a policy may see it.

    ``now_s`` is on the same clock as the replicas' times. ``target`` is N_target, the replicas that the load
    needs. ``replicas`` holds every replica that is not gone; ``offers`` every kind of VM that the pools allow.
    ``runs`` are the versions that launches may run: only where the boots of all of them fail does nothing start.
    """

    now_s: float
    target: int
    replicas: tuple[Replica, ...]
    offers: tuple[Offer, ...]
    runs: tuple[int, ...] = (0,)


class Rule(StrEnum):
    """The rule that a decision follows; closed, so that decisions can be counted by it."""

    SPREAD = "spread"  # a spot replica is missing (its N_extra share included)
    FALLBACK = "fallback"  # on-demand bridges until spot is ready
    ALWAYS_ON = "always_on"  # on-demand that the user wants at all times
    BACK_TO_SPOT = "back_to_spot"  # spot has been ready for long enough: on-demand goes
    SCALE_DOWN = "scale_down"  # the load needs fewer
    NOTICE = "notice"  # the cloud is about to take the VM back
    ASLEEP = "asleep"  # the calendar wants no replica at this hour
    PAUSED = "paused"  # a person wants no replica
    UPDATE = "update"  # a replica of another version takes its place
    ROLLBACK = "rollback"  # its version has been taken back
    BUDGET = "budget"  # a cap on what VMs may cost is reached


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a replica on this offer; ``version`` is what it is to run, 0: the one that is wanted."""

    offer: Offer
    rule: Rule
    reason: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class Drain:
    """Send this replica nothing new, let it finish until ``deadline_s`` (None: the fleet's own limit), end it."""

    replica: ReplicaId
    rule: Rule
    reason: str
    gone: GoneReason
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Terminate:
    """End this replica now; it serves nothing."""

    replica: ReplicaId
    rule: Rule
    reason: str
    gone: GoneReason


Action = Launch | Drain | Terminate


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and the sums behind it.

    ``notes`` are sentences on what is *not* done and why (a zone that rests, a pool without offers); they
    change with the state of the world, not with the clock, so that they can be journalled when they change.
    ``again_at_s`` is the soonest time at which the same world, with no news, may be planned differently (a pause
    ends, say); None: never. A simulator need not ask before. ``held`` are the versions of which none is
    launched now, since their boots fail, each with the sentence that says so.
    """

    target: int
    spot_wanted: int
    on_demand_wanted: int
    actions: tuple[Action, ...] = ()
    notes: tuple[str, ...] = ()
    again_at_s: float | None = None
    held: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer as a policy sees it for its next launch: the one that it would take of this zone and market.

    ``rank`` is its place among those of its market that may be asked, 0 the next; None: it is not asked now.
    ``why`` says what speaks for that, ``until_s`` when it ends by itself (None: only news, or another offer, ends
    it).
    """

    offer: Offer
    rank: int | None
    why: str
    until_s: float | None = None


def ranked(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates as a policy tells them: by market, those that may be asked in order, then the others by zone."""

    def order(one: Candidate) -> tuple[object, ...]:
        return one.offer.market is not Market.SPOT, one.rank is None, one.rank or 0, one.offer.zone

    return tuple(sorted(candidates, key=order))


class Policy(Protocol):
    """SpotHedge and its rivals. Feeding the same news and observations in the same order gives the same plans."""

    name: str

    def observe(self, news: ZoneNews) -> None:
        """Learn one thing about a zone."""

    def plan(self, observation: Observation) -> Plan:
        """What to do now. Changes nothing: the same observation twice gives the same plan twice."""

    def zone_states(self) -> Mapping[ZoneId, str]:
        """Each zone in a word and a reason, for people: ``"available"``, ``"preempted: no capacity 40s ago"``."""

    def candidates(self, observation: Observation) -> tuple[Candidate, ...]:
        """Each zone and market that might be launched into, in the order of asking; then those that are not asked.

        The first of a market is where :meth:`plan` would launch next there. Changes nothing, as :meth:`plan`.
        """

    def sums(self, observation: Observation) -> tuple[str, ...]:
        """Why so many spot and on-demand replicas are wanted by :meth:`plan`: its arithmetic, in sentences."""

    def export_memory(self, now_s: float) -> dict[str, Any]:
        """What was learnt, as JSON-able data with ages in place of times, for the store."""

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up what an earlier run learnt; what does not fit today's pools is forgotten."""
