"""How a new version takes the place of an old one: what to ask the policy, and what to make of its answer. Pure.

A roll-out places nothing itself. It shows the policy a world in which what is to be replaced is missing, and the
policy launches the replacements as it would any others: in its zones, at its prices, with its pauses. Its answer
is then amended: each launch is given the version that it is to run, and what has been replaced is let go.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from math import sqrt

from hedgeserve.policy.plan import Action, Drain, Launch, Observation, Plan, Rule, Terminate
from hedgeserve.replica import STARTING, GoneReason, Market, Replica, Role, State
from hedgeserve.spec import UpdateSpec
from hedgeserve.units import format_duration

_LEAST_JUDGED = 20
"""Attempts on the new version below which their failures are no rate."""
_LEAST_ALL_BAD = 5
"""The same where not one of them has been answered."""
LEAVING = frozenset({State.DRAINING, State.TERMINATING})
_SIGMAS = 2.0
"""Standard deviations by which a difference of rates must exceed the margin, so that chance takes nothing back."""


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
class Rollout:
    """Version ``new`` is to take the place of all others; ``old`` is the one to go back to, and holds capacity.

    ``old_proven`` and ``new_proven`` say whether a version has served as it should before; without the first there
    is no way back. ``switched_s`` is when a blue-green roll-out gave its requests to the new set, ``cleared_s``
    since when no replica of another version has been left.
    """

    old: int
    new: int
    strategy: Strategy
    old_proven: bool = True
    new_proven: bool = False
    switched_s: float | None = None
    cleared_s: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """One question to the policy. ``version`` is what its launches run; ``new_first`` of them run the new one.

    ``bridged``: what it does not show serves on, so that nothing need bridge it.
    """

    observation: Observation
    version: int
    new_first: int = 0
    bridged: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What a roll-out makes of one moment."""

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


def look(rollout: Rollout, seen: Observation, *, at: datetime, update: UpdateSpec, health: Health) -> Step:
    """Judge this moment. ``at`` is UTC, the clock of the replicas' launches."""
    bake_s = 0.0 if rollout.strategy is Strategy.ROLLBACK else update.bake_time
    sides = sides_of(rollout, seen, bake_s)
    left = sum(_is_old(rollout, one) and one.state not in LEAVING for one in seen.replicas)
    # Once clear, always clear: replicas come and go, and a roll-out must end some time.
    cleared_s = None if left else seen.now_s if rollout.cleared_s is None else rollout.cleared_s
    rollout = replace(rollout, cleared_s=cleared_s, new_proven=rollout.new_proven or bool(sides.baked))
    verdict, reason = _verdict(rollout, seen, sides, at=at, update=update, health=health, bake_s=bake_s)
    roles: dict[int, Role] = {}
    match rollout.strategy:
        case Strategy.ROLLBACK:
            views = _rollback_views(rollout, seen, sides)
            roles = {one.version: Role.SPARE for one in seen.replicas if _is_old(rollout, one)}
        case Strategy.BLUE_GREEN:
            views, roles = _blue_green_views(rollout, seen), _blue_green_roles(rollout, seen, sides)
        case Strategy.ROLLING:
            views = _rolling_views(rollout, seen, sides, update)
    return Step(rollout, verdict, reason, roles, views, left, len(sides.new_ready))


def amend(step: Step, seen: Observation, plans: Sequence[Plan], *, update: UpdateSpec) -> Plan:
    """One plan of the policy's answers to the step's views: launches with their versions, and who makes room."""
    rollout, sides = step.rollout, sides_of(step.rollout, seen, bake_s_of(step.rollout, update))
    actions: list[Action] = []
    for view, plan in zip(step.views, plans, strict=True):
        actions += _with_versions(view, _without_bridges(plan, view, seen), rollout)
    main = plans[-1]
    gone = {action.replica for action in actions if not isinstance(action, Launch)}
    launching = any(isinstance(action, Launch) for action in actions)
    making_room = _making_room(rollout, seen, sides, main, update, launching=launching)
    actions += [action for action in making_room if action.replica not in gone]
    notes = tuple(dict.fromkeys(note for plan in plans for note in plan.notes))
    again = [plan.again_at_s for plan in plans if plan.again_at_s is not None]
    return replace(main, actions=tuple(actions), notes=notes, again_at_s=min(again, default=None))


# Who is who


def _is_old(rollout: Rollout, replica: Replica) -> bool:
    return replica.version not in (0, rollout.new) and replica.state is not State.GONE


def _is_baked(replica: Replica, now_s: float, bake_s: float) -> bool:
    since_s = replica.since_s if replica.ready_since_s is None else replica.ready_since_s
    return replica.state is State.READY and now_s >= since_s + bake_s


def bake_s_of(rollout: Rollout, update: UpdateSpec) -> float:
    """For how long a new replica must have been ready before it counts; what has served before counts at once."""
    return 0.0 if rollout.strategy is Strategy.ROLLBACK else update.bake_time


def sides_of(rollout: Rollout, seen: Observation, bake_s: float) -> Sides:
    """Who runs the new version and who another one; ``bake_s`` is for how long a new one must have been ready."""
    alive = [one for one in seen.replicas if one.alive and one.version]
    new = tuple(one for one in alive if one.version == rollout.new)
    return Sides(
        new=new,
        old=tuple(sorted((one for one in alive if one.version != rollout.new), key=_order)),
        external_ready=sum(one.version == 0 and one.state is State.READY for one in seen.replicas),
        baked=frozenset(one.id for one in new if _is_baked(one, seen.now_s, bake_s)),
    )


def _order(replica: Replica) -> tuple[bool, bool, float, str]:
    """The order in which old ones are replaced: what does not serve yet, then on-demand, then the dearest."""
    return (
        replica.state is State.READY,
        replica.market is not Market.ON_DEMAND,
        -replica.offer.usd_per_work,
        replica.id,
    )


# What becomes of it


def _verdict(
    rollout: Rollout,
    seen: Observation,
    sides: Sides,
    *,
    at: datetime,
    update: UpdateSpec,
    health: Health,
    bake_s: float,
) -> tuple[Verdict, str]:
    judged = rollout.strategy is not Strategy.ROLLBACK and rollout.old_proven
    if judged and (why := _why_back(rollout, sides, at=at, update=update, health=health)):
        return Verdict.BACK, why
    if rollout.strategy is Strategy.BLUE_GREEN and rollout.switched_s is None:
        enough = len(sides.new_ready) + sides.external_ready >= seen.target
        if enough or not (sides.old_ready or not sides.new_ready):
            return Verdict.SWITCH, f"{len(sides.new_ready)} replicas of version {rollout.new} are ready"
        return Verdict.GOES_ON, ""
    cleared_s = rollout.cleared_s
    if rollout.strategy is Strategy.BLUE_GREEN:
        bake_s = 0.0  # it was what the old set was kept for
    served = bool(sides.new_ready) or sides.external_ready > 0 or seen.target == 0
    if cleared_s is not None and served and seen.now_s >= cleared_s + bake_s:
        return Verdict.DONE, f"all replicas run version {rollout.new}"
    return Verdict.GOES_ON, ""


def _why_back(rollout: Rollout, sides: Sides, *, at: datetime, update: UpdateSpec, health: Health) -> str:
    if health.failures >= update.max_failures:
        return f"{health.failures} of its replicas failed, the last with: {health.last_failure}"
    for one in sides.new:
        age_s = (at - one.created_at).total_seconds()
        if one.state in STARTING and one.vm_id is not None and age_s > update.ready_timeout:
            return f"{one.id} was not ready {format_duration(update.ready_timeout)} after its launch"
    new, old = (health.counts.get(version, Count()) for version in (rollout.new, rollout.old))
    if new.attempts < (_LEAST_ALL_BAD if new.failed == new.attempts else _LEAST_JUDGED):
        return ""
    if _is_worse(new.failed, new.attempts, old.failed, old.attempts, update.error_margin):
        shares = f"{_share(new.failed, new.attempts)} of its attempts fail"
        return f"{shares}, {_share(old.failed, old.attempts)} on the old"
    if _is_worse(new.refused, new.attempts, old.refused, old.attempts, update.error_margin):
        shares = f"{_share(new.refused, new.attempts)} of its answers are refusals (4xx)"
        return f"{shares}, {_share(old.refused, old.attempts)} on the old"
    return ""


def _is_worse(bad: int, of: int, bad_before: int, of_before: int, margin: float) -> bool:
    """Whether a share is above another one by more than the margin and more than chance."""
    share, before = bad / of, bad_before / of_before if of_before else 0.0
    pooled = (bad + bad_before) / (of + of_before)
    chance = sqrt(pooled * (1 - pooled) * (1 / of + 1 / max(1, of_before)))
    return share > before + margin + _SIGMAS * chance or (share == 1.0 and before + margin < 0.5)


def _share(bad: int, of: int) -> str:
    return f"{bad / of:.1%}" if of else "none"


# What the policy is asked


def _rolling_views(rollout: Rollout, seen: Observation, sides: Sides, update: UpdateSpec) -> tuple[View, ...]:
    hidden = {one.id for one in sides.old[: update.max_surge]}
    shown = replace(seen, replicas=tuple(one for one in seen.replicas if one.id not in hidden))
    if rollout.new_proven or not rollout.old_proven:
        return (View(shown, rollout.new, bridged=True),)
    # Until one of the new has proven itself, only so many try; what is lost meanwhile comes back as it was.
    tries = max(0, max(1, update.max_surge) - len(sides.new))
    return (View(shown, rollout.old, new_first=tries, bridged=True),)


def _rollback_views(rollout: Rollout, seen: Observation, sides: Sides) -> tuple[View, ...]:
    hidden = {one.id for one in sides.old}
    shown = replace(seen, replicas=tuple(one for one in seen.replicas if one.id not in hidden))
    return (View(shown, rollout.new),)


def _blue_green_views(rollout: Rollout, seen: Observation) -> tuple[View, ...]:
    # Two worlds, each as if the other were not there; what is on its way out belongs to the one that serves.
    blue = tuple(one for one in seen.replicas if one.version != rollout.new)
    if rollout.switched_s is not None:
        kept = {one.id for one in blue if one.version and one.alive}
        green = tuple(one for one in seen.replicas if one.id not in kept)
        return (View(replace(seen, replicas=green), rollout.new),)
    green = tuple(one for one in seen.replicas if one.version in (0, rollout.new))
    return (
        View(replace(seen, replicas=green), rollout.new, bridged=True),
        View(replace(seen, replicas=blue), rollout.old),
    )


def _blue_green_roles(rollout: Rollout, seen: Observation, sides: Sides) -> dict[int, Role]:
    switched = rollout.switched_s is not None
    # Better an answer of the other set than none. The new set helps only where nothing else is ready, for it has
    # not been tried; the old one wherever too few of the new are.
    ready = len(sides.new_ready if switched else sides.old_ready) + sides.external_ready
    helpless = ready < seen.target if switched else ready == 0
    waits = Role.SPARE if helpless else Role.HOLD
    return {
        one.version: Role.SERVE if (one.version == rollout.new) == switched else waits
        for one in seen.replicas
        if one.version
    }


# What comes of the answers


def _without_bridges(plan: Plan, view: View, seen: Observation) -> Plan:
    """The plan without the on-demand replicas that would bridge what only seems to be missing.

    What is hidden from the policy serves on: while as many are ready as the load needs, and spot comes or is asked
    for, nothing need be bridged. Where no spot is to be had, the policy has its way.
    """
    shown = {one.id for one in view.observation.replicas}
    hidden_spot = any(
        one.state is State.READY and one.market is Market.SPOT for one in seen.replicas if one.id not in shown
    )
    ready = sum(one.state is State.READY for one in seen.replicas)
    spot_comes = any(isinstance(one, Launch) and one.offer.market is Market.SPOT for one in plan.actions) or any(
        one.state in STARTING and one.market is Market.SPOT for one in view.observation.replicas
    )
    if not (view.bridged and hidden_spot and spot_comes and ready >= seen.target):
        return plan
    kept = tuple(one for one in plan.actions if not (isinstance(one, Launch) and one.rule is Rule.FALLBACK))
    return replace(plan, actions=kept)


def _with_versions(view: View, plan: Plan, rollout: Rollout) -> Iterable[Action]:
    tries = view.new_first
    for action in plan.actions:
        if not isinstance(action, Launch):
            yield action
            continue
        version = view.version
        if tries:
            version, tries = rollout.new, tries - 1
        yield replace(action, version=version, reason=f"version {version}: {action.reason}")


def _making_room(
    rollout: Rollout, seen: Observation, sides: Sides, plan: Plan, update: UpdateSpec, *, launching: bool
) -> Iterable[Drain | Terminate]:
    rule = Rule.ROLLBACK if rollout.strategy is Strategy.ROLLBACK else Rule.UPDATE
    match rollout.strategy:
        case Strategy.BLUE_GREEN:
            baked = rollout.switched_s is not None and seen.now_s >= rollout.switched_s + update.bake_time
            why = f"version {rollout.new} has served for {format_duration(update.bake_time)}"
            # Those that stand in for new ones that are missing stay until these are there.
            spare = len(sides.new_ready) + sides.external_ready + len(sides.old_ready) - seen.target
            yield from _end(sides.old, _at_most(spare), rule, why) if baked else ()
        case Strategy.ROLLBACK:
            # Whatever of it serves is a spare as long as too few of the good ones do.
            spare = len(sides.new_ready) + sides.external_ready + len(sides.old_ready) - seen.target
            yield from _end(sides.old, _at_most(spare), rule, f"back to version {rollout.new}")
        case Strategy.ROLLING:
            yield from _rolling_room(rollout, seen, sides, plan, update, launching=launching)


def _rolling_room(
    rollout: Rollout, seen: Observation, sides: Sides, plan: Plan, update: UpdateSpec, *, launching: bool
) -> Iterable[Drain | Terminate]:
    hidden = {one.id for one in sides.old[: update.max_surge]}
    shown = [one for one in (*sides.old, *sides.new) if one.id not in hidden]
    coming = launching or any(
        one.state in STARTING or (one.version == rollout.new and one.id not in sides.baked) for one in shown
    )
    # Two bounds: what the load needs, always; and while anything is on its way, all that the policy wants.
    spare = sides.serving - seen.target + update.max_unavailable
    if coming:
        wanted = plan.spot_wanted + sides.external_ready
        spare = min(spare, sides.serving - wanted + update.max_unavailable)
    content = not coming and sum(one.market is Market.SPOT for one in shown) >= plan.spot_wanted
    may_go = _at_most(min(spare, max(update.max_surge, update.max_unavailable)))
    why = f"version {rollout.new} takes its place"
    for one in sides.old:
        if one.state in STARTING:
            if not rollout.old_proven or (one.id in hidden and not coming):
                yield Terminate(one.id, Rule.UPDATE, f"{why}; it had not served yet", GoneReason.REPLACED)
            continue
        paid_for = one.id in hidden and (bool(sides.baked) or content)
        if (paid_for or not update.max_surge) and may_go(one):
            yield Drain(one.id, Rule.UPDATE, why, GoneReason.REPLACED)


def _at_most(spare: int) -> Callable[[Replica], bool]:
    """Lets so many ready ones go, in the order in which they are asked about."""
    left = [spare]

    def may_go(replica: Replica) -> bool:
        left[0] -= 1
        return left[0] >= 0

    return may_go


def _end(
    replicas: Iterable[Replica], may_go: Callable[[Replica], bool], rule: Rule, why: str
) -> Iterable[Drain | Terminate]:
    for one in replicas:
        if one.state in STARTING:
            yield Terminate(one.id, rule, f"{why}; it had not served yet", GoneReason.REPLACED)
        elif may_go(one):
            yield Drain(one.id, rule, why, GoneReason.REPLACED)
