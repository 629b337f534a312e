"""What an explanation is made of, and what it is: all that decides, at one moment, with a clock for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hedgeserve.policy.autoscale import ScaleDecision
from hedgeserve.policy.means import Means, held
from hedgeserve.policy.plan import Candidate, Observation, Plan, Policy
from hedgeserve.policy.rolling import Rolling
from hedgeserve.policy.rollout import Strategy
from hedgeserve.replica import STARTING, GoneReason, Market, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import HedgeSpec, ReplicasSpec
from hedgeserve.units import format_duration

NAMES = {Market.SPOT: "spot", Market.ON_DEMAND: "on-demand", Market.EXTERNAL: "external"}
"""The markets as people call them."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event of the journal, as far as it is needed here."""

    at: datetime
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Past:
    """A replica that is gone, as the journal knows it, with its events, the oldest first."""

    id: str
    zone: ZoneId
    market: Market
    why: str
    gone: GoneReason | None
    ended_at: datetime
    story: Sequence[Told] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer: what is the case, because of what, and what would change it; each a sentence."""

    subject: str
    headline: str
    because: tuple[str, ...]
    would_change: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """JSON-able; its shape is described in ``docs/explain.md`` and only ever grows."""
        return {
            "subject": self.subject,
            "headline": self.headline,
            "because": list(self.because),
            "would_change": list(self.would_change),
        }


@dataclass(frozen=True, slots=True)
class Scene:
    """All that an answer is made of, at one moment: ``at`` is the wall clock's reading at ``observation.now_s``.

    ``plan`` and ``scale`` are the last decisions, the plan as the caps have left it. ``outside`` holds, by zone,
    sentences on what is not even shown to the policy: offers that are not made, kinds of VM that rest.
    ``resting`` says why the service runs nothing at all; empty: it is awake. ``halts`` says why a launch that is
    wanted is not made. ``boot_s`` is how long a replica takes until it is ready, going by the last ones.
    ``rolling`` is the roll-out under way. ``means`` are the caps and what is spent of them (None: there are
    none), by which the tick holds its plans. ``doubted`` are replicas in doubt, and why; the observation shows
    them as the policy is shown them.
    """

    at: datetime
    observation: Observation
    hedge: HedgeSpec
    replicas: ReplicasSpec
    policy: Policy
    plan: Plan
    scale: ScaleDecision
    outside: Mapping[ZoneId, Sequence[str]]
    resting: str = ""
    halts: str = ""
    troubles: Sequence[str] = ()
    boot_s: float | None = None
    rolling: Rolling | None = None
    means: Means | None = None
    doubted: Mapping[ReplicaId, str] = field(default_factory=dict)

    @property
    def shown(self) -> Observation:
        """What the policy is asked about: all of it, or in a roll-out without what is to be replaced."""
        if self.rolling is None:
            return self.observation
        return self.rolling.views(self.observation, at=self.at)[0].observation

    @property
    def now_s(self) -> float:
        """The monotonic time of all this."""
        return self.observation.now_s

    def allowed(self, plan: Plan, observation: Observation) -> Plan:
        """What the caps leave of a plan."""
        return held(self.means, plan, observation)

    @property
    def wanted(self) -> Plan:
        """What the policy wants, before the caps hold it back: the reasons speak of that."""
        if self.means is None or self.resting:
            return self.plan
        if self.rolling is None:
            return self.policy.plan(self.observation)
        return self.rolling.go(self.policy.plan, self.observation, at=self.at).plan

    def held_back(self) -> list[str]:
        """What the caps hold back or take away now, and why."""
        if self.means is None or self.resting:
            return []
        return [*self.means.hold(self.wanted, self.observation).reasons]

    def caps(self) -> list[str]:
        """What each cap leaves, in a sentence."""
        return [] if self.means is None else [cap.leaves for cap in self.means.caps(self.observation)]

    def unaffordable(self, one: Candidate) -> str:
        """Why the caps leave no room for a launch there now; empty: they do, or there are none."""
        return "" if self.means is None else self.means.refusal(one.offer, self.observation)

    def zones(self) -> list[str]:
        """Every zone that may be asked about: those of offers, made or not, and of replicas."""
        seen = self.observation
        return sorted({*(one.zone for one in seen.offers), *(one.zone for one in seen.replicas), *self.outside})

    def ready(self) -> list[Replica]:
        """All replicas that are ready."""
        return [one for one in self.observation.replicas if one.state is State.READY]

    def counted(self, market: Market) -> list[Replica]:
        """The replicas of this market that run or start, as far as the policy is shown them."""
        return [one for one in self.shown.replicas if one.alive and one.market is market]

    def starting(self) -> list[Replica]:
        """The replicas on their way up."""
        return [one for one in self.observation.replicas if one.state in STARTING]

    def sums(self) -> list[str]:
        """Why so many are wanted, by the policy's own arithmetic on what it is shown.

        Of a rolling update in the world as it is, as on-demand and the plan's own sums are: what is hidden so that
        its replacement comes is told apart. Of a blue-green one and on the way back for each set that is asked.
        """
        if self.rolling is None:
            return [*self.policy.sums(self.observation)]
        views = self.rolling.views(self.observation, at=self.at)
        new = self.rolling.rollout.new
        if self.rolling.rollout.strategy is Strategy.ROLLING:
            return [*self.policy.sums(views[-1].observation)]
        return [
            f"for {f'version {new}' if view.version == new else 'the old set'} alone: {told}"
            for view in views
            for told in self.policy.sums(view.observation)
        ]

    def candidates(self, *, zone: ZoneId | None = None, market: Market | None = None) -> list[Candidate]:
        """What the policy has to say of its next launch there."""
        return [
            one
            for one in self.policy.candidates(self.shown)
            if zone in (None, one.offer.zone) and market in (None, one.offer.market)
        ]

    def clock(self, at_s: float) -> str:
        """A monotonic time as people read it: ``"14:03:05 UTC (in 40s)"``."""
        left_s = at_s - self.now_s
        when = self.at + timedelta(seconds=left_s)
        span = format_duration(round(abs(left_s)))
        return f"{when:%H:%M:%S} UTC ({f'in {span}' if left_s >= 0 else f'{span} ago'})"

    def age(self, replica: Replica) -> str:
        """For how long it has been in its state."""
        return format_duration(round(max(0.0, self.now_s - replica.since_s)))

    def condition(self, replica: Replica) -> str:
        """What state it is in, for how long, and why, to go on after its name."""
        if replica.id in self.doubted:
            return f"has been ready for {self.age(replica)}, and is in doubt: {self.doubted[replica.id]}"
        why = f": {replica.why}" if replica.why else ""
        notice = f", its VM ends at {self.clock(replica.notice.deadline_s)}" if replica.notice is not None else ""
        return f"has been {replica.state} for {self.age(replica)}{notice}{why}"


def clock_of(at: datetime) -> str:
    """A time of the journal."""
    return f"{at:%H:%M:%S} UTC"


def once(sentences: Iterable[str]) -> tuple[str, ...]:
    """Each sentence once, in their order."""
    return tuple(dict.fromkeys(sentences))
