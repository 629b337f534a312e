"""What a policy makes of a fleet where every launch is granted and nothing is ever taken back. Pure.

The world of `hedgeserve plan`: it tells what would be launched and let go, step by step, until the policy leaves
the fleet as it is. What a recorded world would make of it is the back-test's to tell.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hedgeserve.policy.budget import Cap
from hedgeserve.policy.means import Means
from hedgeserve.policy.plan import Action, Launch, NewsKind, Observation, Plan, Policy, ZoneNews
from hedgeserve.policy.rolling import Rolling
from hedgeserve.replica import STARTING, Market, Offer, Replica, ReplicaId, State

QUIET_S = 3600.0
"""A fleet that is let be for so long has settled: outlooks of zones move by the ten minutes."""
HORIZON_S = 86400.0
_STEP_S = 1.0
"""From one plan to the next where something was done, as in production."""
_MOST_STEPS = 20_000
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done, ``at_s`` after the begin: the action, and the replica that was launched or let go."""

    at_s: float
    action: Action
    replica: Replica

    @property
    def launches(self) -> bool:
        """Whether a replica came, and not one went."""
        return isinstance(self.action, Launch)


@dataclass(frozen=True, slots=True)
class Course:
    """How a fleet came to rest: all that was done, what ran in the end, the most that it cost an hour on the way.

    ``first`` is the first plan, of the fleet as it was. ``settled`` is false where the policy was still at it a
    day later; the fleet is that of then. ``held_back`` says what the caps did not allow on the way, ``caps`` how
    they stand with the fleet at rest. ``rolled_s`` is when a roll-out that was under way was done (None: there
    was none, or it was not done).
    """

    target: int
    first: Plan
    steps: tuple[Step, ...]
    fleet: tuple[Replica, ...]
    most_usd_per_hour: float
    settled: bool
    rolled_s: float | None = None
    held_back: tuple[str, ...] = ()
    caps: tuple[Cap, ...] = ()

    @property
    def after_s(self) -> float:
        """When the last thing was done."""
        return self.steps[-1].at_s if self.steps else 0.0

    @property
    def usd_per_hour(self) -> float:
        """What the fleet costs once it rests."""
        return usd_per_hour(self.fleet)


def usd_per_hour(fleet: Iterable[Replica]) -> float:
    """What these replicas cost an hour; external ones cost us nothing."""
    return sum(replica.offer.usd_per_hour for replica in fleet)


def settle(
    policy: Policy,
    *,
    target: int,
    offers: Sequence[Offer],
    replicas: Sequence[Replica] = (),
    now_s: float = 0.0,
    cold_start_s: float = 120.0,
    rolling: Rolling | None = None,
    means: Means | None = None,
    version: int = 0,
    horizon_s: float = HORIZON_S,
) -> Course:
    """Let this policy have its way from these replicas on, until it has done nothing for :data:`QUIET_S`.

    Every launch is granted at once and ready after ``cold_start_s``; what is let go of is gone at once. Replicas
    that are on their way out at the begin are not counted. The policy learns, so it should be used for nothing
    else. ``rolling`` is a roll-out that begins or goes on meanwhile; no request fails, so it is never taken back.
    ``means`` are the caps that the service holds to, as of ``now_s``, ``version`` is what launches run without a
    roll-out: where its boots have failed they wait, as long as the policy has them wait. Nothing is looked at
    after ``horizon_s``.
    """
    world = _Granted(policy, target, tuple(offers), replicas, now_s, cold_start_s, rolling, means, version)
    first: Plan | None = None
    for _ in range(_MOST_STEPS):
        plan = world.plan()
        first = first or plan
        if world.rests(plan):
            return world.course(first, settled=True)
        if world.now_s - now_s >= horizon_s:
            break
        world.go_on(plan)
    assert first is not None
    return world.course(first, settled=False)


class _Granted:
    """The fleet, and the clock."""

    def __init__(
        self,
        policy: Policy,
        target: int,
        offers: tuple[Offer, ...],
        replicas: Sequence[Replica],
        now_s: float,
        cold_start_s: float,
        rolling: Rolling | None,
        means: Means | None,
        version: int,
    ) -> None:
        self._policy, self._target, self._offers, self._cold_start_s = policy, target, offers, cold_start_s
        self.now_s = self._begun_s = self._moved_s = now_s
        self._fleet = {one.id: _loading(one) if one.state in STARTING else one for one in replicas if one.alive}
        self._born_at = max((one.created_at for one in self._fleet.values()), default=_EPOCH)
        self._launched_s = {one.id: min(one.since_s, now_s) for one in self._fleet.values()}
        self._ready_s = {
            one.id: now_s + cold_start_s for one in self._fleet.values() if one.state is State.LOADING
        }
        self._rolling = rolling
        self._wanted = version if rolling is None else rolling.rollout.new
        self._rolled_s: float | None = None
        self._means = means
        self._held_back: dict[str, None] = {}
        self._born = 0
        self._steps: list[Step] = []
        # Those on their way out are paid for until they are gone, which nobody knows when.
        self._leaving_usd = sum(one.offer.usd_per_hour for one in replicas if _leaves(one))
        self._most_usd_per_hour = usd_per_hour(self._fleet.values()) + self._leaving_usd
        for one in self._fleet.values():
            if one.state is State.READY:
                self._tell(one, NewsKind.READY)

    def plan(self) -> Plan:
        """What the policy would do now, as a roll-out amends it and the caps allow it."""
        seen = self._seen()
        wanted = self._wanted_of(seen)
        if self._means is None:
            return wanted
        held = self._means.hold(wanted, seen)
        self._held_back |= dict.fromkeys(held.reasons)
        return held.plan

    def _wanted_of(self, seen: Observation) -> Plan:
        if self._rolling is None:
            return self._policy.plan(seen)
        moment = self._rolling.go(self._policy.plan, seen, at=self._at())
        self._rolling = moment.after
        if self._rolling is None:
            self._rolled_s = self.now_s - self._begun_s
        return moment.plan

    def rests(self, plan: Plan) -> bool:
        """Whether nothing is to be done by this plan, comes up, or has been done for long enough."""
        if self._ready_s or self._acts(plan):
            return False
        if self._rolling is not None:
            return self.now_s - self._moved_s >= QUIET_S
        return plan.again_at_s is None or self.now_s - self._moved_s >= QUIET_S

    def go_on(self, plan: Plan) -> None:
        """Do what the plan says, and let time go by until something may be otherwise."""
        acts = self._acts(plan)
        for action in acts:
            self._do(action)
        costs = usd_per_hour(self._fleet.values()) + self._leaving_usd
        self._most_usd_per_hour = max(self._most_usd_per_hour, costs)
        soonest_s = self.now_s + _STEP_S
        if acts:
            self._moved_s, self.now_s = self.now_s, soonest_s
        else:
            again_s = [] if plan.again_at_s is None else [plan.again_at_s]
            if self._rolling is not None:
                again_s += [
                    at_s for at_s in self._rolling.moments(self._seen(), at=self._at()) if at_s > self.now_s
                ]
            next_s = min([*self._ready_s.values(), *again_s, self._moved_s + QUIET_S])
            self.now_s = max(soonest_s, next_s)
        for replica_id in [one for one, ready_s in self._ready_s.items() if ready_s <= self.now_s]:
            del self._ready_s[replica_id]
            ready = self._fleet[replica_id].to(State.READY, now_s=self.now_s, why="it answered its first token")
            self._fleet[replica_id] = ready
            self._tell(ready, NewsKind.READY, version=ready.version)

    def course(self, first: Plan, *, settled: bool) -> Course:
        """All that has come to pass."""
        fleet = tuple(self._fleet.values())
        steps = tuple(self._steps)
        return Course(
            self._target,
            first,
            steps,
            fleet,
            self._most_usd_per_hour,
            settled,
            self._rolled_s,
            tuple(self._held_back),
            () if self._means is None else self._means.caps(self._seen()),
        )

    def _seen(self) -> Observation:
        return Observation(self.now_s, self._target, tuple(self._fleet.values()), self._offers, (self._wanted,))

    def _at(self) -> datetime:
        """The wall clock, which begins when the youngest replica was born."""
        return self._born_at + timedelta(seconds=self.now_s - self._begun_s)

    def _acts(self, plan: Plan) -> list[Action]:
        return [one for one in plan.actions if isinstance(one, Launch) or one.replica in self._fleet]

    def _do(self, action: Action) -> None:
        at_s = self.now_s - self._begun_s
        if not isinstance(action, Launch):
            replica = self._fleet.pop(action.replica)
            self._ready_s.pop(action.replica, None)
            self._steps.append(Step(at_s, action, replica))
            self._tell(replica, NewsKind.RELEASED)
            return
        self._born += 1
        replica = Replica(
            id=ReplicaId(f"new-{self._born}"),
            offer=action.offer,
            state=State.LOADING,
            since_s=self.now_s,
            created_at=self._born_at + timedelta(seconds=at_s + self._born / 1e6),
            why=action.reason,
            version=action.version or self._wanted,
        )
        self._fleet[replica.id] = replica
        self._launched_s[replica.id] = self.now_s
        self._ready_s[replica.id] = self.now_s + self._cold_start_s
        self._steps.append(Step(at_s, action, replica))
        self._policy.observe(ZoneNews(replica.zone, replica.market, NewsKind.GRANTED, self.now_s))

    def _tell(self, replica: Replica, kind: NewsKind, *, version: int = 0) -> None:
        # Only of a boot that succeeds from now on the version is told: what was ready before did not end the wait.
        if replica.market is not Market.EXTERNAL:
            held_s = self.now_s - self._launched_s[replica.id]
            self._policy.observe(
                ZoneNews(replica.zone, replica.market, kind, self.now_s, held_s=held_s, version=version)
            )


def _leaves(replica: Replica) -> bool:
    """Whether it has a VM of ours and is on its way out."""
    return not replica.alive and replica.state is not State.GONE


def _loading(replica: Replica) -> Replica:
    """The same on the last stretch of its way up, wherever it is on it."""
    return replace(replica, state=State.LOADING)
