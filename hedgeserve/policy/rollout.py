"""What a roll-out is: the words, and who runs which version. Pure.

How it is judged is in :mod:`hedgeserve.policy.verdict`, what it asks the policy in
:mod:`hedgeserve.policy.replacing`, what comes of the answers in :mod:`hedgeserve.policy.amending`, what it is said
to wait for in :mod:`hedgeserve.policy.waits`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hedgeserve.policy.plan import Observation, Plan
from hedgeserve.replica import Market, Replica, ReplicaId, Role, State
from hedgeserve.spec import UpdateSpec

LEAVING = frozenset({State.DRAINING, State.TERMINATING})
"""States of a replica that is on its way out."""


class Strategy(StrEnum):
    """How a version comes in."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue-green"
    ROLLBACK = "rollback"  # an old version comes back: at once, since it has served before


class Verdict(StrEnum):
    """What has become of a roll-out."""

    GOES_ON = "goes_on"
    SWITCH = "switch"  # blue-green: the new set takes the requests from now on
    DONE = "done"
    BACK = "back"  # the new version is not what was hoped for


@dataclass(frozen=True, slots=True)
class Count:
    """What a version has done with requests: attempts that it answered, failed by its fault, refused (4xx)."""

    served: int = 0
    failed: int = 0
    refused: int = 0

    @property
    def attempts(self) -> int:
        """All of them."""
        return self.served + self.failed + self.refused


@dataclass(frozen=True, slots=True)
class Health:
    """How the versions fare: requests by version, replicas failed since the roll-out began, and why the last."""

    counts: Mapping[int, Count] = field(default_factory=dict)
    failures: int = 0
    last_failure: str = ""


@dataclass(frozen=True, slots=True)
class Hidden:
    """An old replica that a rolling update is replacing: it serves on, and the policy does not see it.

    ``since_s`` is when that began. ``gives_up_spot``: no spot has come for it, so that on-demand may.
    """

    replica: ReplicaId
    since_s: float
    gives_up_spot: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """Version ``new`` is to take the place of all others; ``old`` is the one to go back to, and holds capacity.

    ``old_proven`` and ``new_proven`` say whether a version has served as it should before; without the first there
    is no way back. ``switched_s`` is when a blue-green roll-out gave its requests to the new set, ``cleared_s``
    since when no replica of another version has been left. ``hidden`` are those that a rolling update replaces
    now, the first to go first.
    """

    old: int
    new: int
    strategy: Strategy
    old_proven: bool = True
    new_proven: bool = False
    switched_s: float | None = None
    cleared_s: float | None = None
    hidden: tuple[Hidden, ...] = ()


class Part(StrEnum):
    """Which part of the policy's answer to a view is heeded."""

    ALL = "all"
    SPOT = "spot"  # spot launched and ended, notices aside
    REST = "rest"  # all else: on-demand, notices
    SUMS = "sums"  # nothing is done by it: how many are wanted in the world as it is


@dataclass(frozen=True, slots=True)
class View:
    """One question to the policy. ``version`` is what its launches run; ``new_first`` of them run the new one.

    ``hidden`` are replicas that it does not show though they serve, since they are being replaced. ``bridged``: a
    whole set that it does not show serves on, so that nothing need bridge it.
    """

    observation: Observation
    version: int
    new_first: int = 0
    part: Part = Part.ALL
    hidden: tuple[ReplicaId, ...] = ()
    bridged: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What a roll-out makes of one moment: where it stands, what its replicas are for, what to ask the policy.

    ``left`` of the old ones are not on their way out, ``ready`` of the new are. The last view is the one whose
    sums are told.
    """

    rollout: Rollout
    verdict: Verdict
    reason: str
    roles: Mapping[int, Role]
    views: tuple[View, ...]
    left: int
    ready: int


@dataclass(frozen=True, slots=True)
class Sides:
    """Replicas of the new version, and of all others, that live, in the order in which these are replaced.

    ``baked`` are those of the new that have been ready for long enough to count.
    """

    new: tuple[Replica, ...]
    old: tuple[Replica, ...]
    external_ready: int
    baked: frozenset[str]

    @property
    def old_ready(self) -> list[Replica]:
        """Those of other versions that are ready."""
        return [one for one in self.old if one.state is State.READY]

    @property
    def new_ready(self) -> list[Replica]:
        """Those of the new version that are ready."""
        return [one for one in self.new if one.state is State.READY]

    @property
    def serving(self) -> int:
        """Replicas that can be counted on: the new ones once they have been ready for a while."""
        return len(self.old_ready) + len(self.baked) + self.external_ready

    def without(self, gone: Collection[ReplicaId]) -> "Sides":
        """The sides once these are gone."""
        return replace(
            self,
            new=tuple(one for one in self.new if one.id not in gone),
            old=tuple(one for one in self.old if one.id not in gone),
            baked=self.baked - frozenset(gone),
        )


# Who is who


def is_old(rollout: Rollout, replica: Replica) -> bool:
    """Whether it is one of ours, not gone, and runs another version than the new one."""
    return replica.version not in (0, rollout.new) and replica.state is not State.GONE


def unneeded(old: Iterable[Replica], plan: Plan) -> int:
    """How many of the old on-demand replicas nothing takes the place of: spot stands in for them already.

    They are kept until it has proved itself, and go by themselves.
    """
    on_demand = sum(one.market is Market.ON_DEMAND and one.alive for one in old)
    return max(0, on_demand - plan.on_demand_wanted)


def _is_baked(replica: Replica, now_s: float, bake_s: float) -> bool:
    since_s = replica.since_s if replica.ready_since_s is None else replica.ready_since_s
    return replica.state is State.READY and now_s >= since_s + bake_s


def bake_s_of(rollout: Rollout, update: UpdateSpec) -> float:
    """For how long a new replica must have been ready before it counts; what has served before counts at once."""
    return 0.0 if rollout.strategy is Strategy.ROLLBACK else update.bake_time


def sides_of(rollout: Rollout, seen: Observation, bake_s: float) -> Sides:
    """Who runs the new version and who another one; ``bake_s`` is for how long a new one must have been ready."""
    alive = [one for one in seen.replicas if one.alive and one.version]
    turns = {one.replica: turn for turn, one in enumerate(rollout.hidden)}
    new = tuple(one for one in alive if one.version == rollout.new)
    return Sides(
        new=new,
        old=tuple(
            sorted(
                (one for one in alive if one.version != rollout.new),
                key=lambda one: (turns.get(one.id, len(turns)), *_order(one)),
            )
        ),
        external_ready=sum(one.version == 0 and one.state is State.READY for one in seen.replicas),
        baked=frozenset(one.id for one in new if _is_baked(one, seen.now_s, bake_s)),
    )


def _order(replica: Replica) -> tuple[bool, bool, float, str]:
    """The order in which old ones are replaced that are not being replaced yet.

    Spot first: on-demand that bridges goes by itself once spot is there again. Then what does not serve yet, then
    the dearest.
    """
    return (
        replica.market is Market.ON_DEMAND,
        replica.state is State.READY,
        -replica.offer.usd_per_work,
        replica.id,
    )
