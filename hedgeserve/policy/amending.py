"""What comes of the policy's answers in a roll-out: launches with their versions, and who makes room. Pure.

The questions are those of :mod:`hedgeserve.policy.replacing`. One thing is done here that the policy has not asked
for: what has been replaced is let go.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from hedgeserve.policy.plan import Action, Drain, Launch, Observation, Plan, Rule, Terminate
from hedgeserve.policy.returning import HOPE_S, enough_ready, helps, is_coming, leaving, more_may_come
from hedgeserve.policy.rollout import Part, Rollout, Sides, Step, Strategy, View, bake_s_of, sides_of
from hedgeserve.replica import STARTING, GoneReason, Market, Replica, State
from hedgeserve.spec import UpdateSpec
from hedgeserve.units import format_duration

_MOST_NAMED = 3
_NOT_COUNTING = " (not counting "


def amend(step: Step, seen: Observation, plans: Sequence[Plan], *, update: UpdateSpec) -> Plan:
    """One plan of the policy's answers to the step's views: launches with their versions, and who makes room."""
    rollout, sides = step.rollout, sides_of(step.rollout, seen, bake_s_of(step.rollout, update))
    main = plans[-1]
    # Where the new version is not to be launched for now, nothing takes the place of what is hidden: only what is
    # missing in the world as it is comes, and as the old version.
    waits = rollout.new in main.held
    room = _Room(replace(rollout, hidden=()) if waits else rollout, seen, main)
    actions: list[Action] = []
    for view, plan in zip(step.views, plans, strict=True):
        heeded = _heeded(view, _without_bridges(plan, view, seen, rollout), seen)
        if view.hidden:
            heeded = (one for one in heeded if not isinstance(one, Launch) or room.has_for(one))
        actions += _told(view, _with_versions(view, heeded, rollout, plan.held))
    if rollout.strategy is Strategy.ROLLING:
        actions = list(_old_first(_without_holes(actions, seen, rollout, update), rollout, sides, seen))
    elif rollout.strategy is Strategy.ROLLBACK and helps(step):  # the holes of the update that it takes back
        actions = _without_holes(actions, seen, rollout, update)
    # What the policy ends itself makes no room twice.
    left = sides.without({action.replica for action in actions if not isinstance(action, Launch)})
    launching = any(isinstance(action, Launch) for action in actions)
    wanted = {
        Market.SPOT: min(plan.spot_wanted for plan in plans),
        Market.ON_DEMAND: main.on_demand_wanted,
    }
    actions += _making_room(step, seen, left, wanted, update, launching=launching, held=waits)
    told = plans[-1:] if any(view.part is not Part.ALL for view in step.views) else plans
    notes = tuple(dict.fromkeys(note for plan in told for note in plan.notes))  # of the world as it is, if asked
    again = [plan.again_at_s for plan in plans if plan.again_at_s is not None]
    runs = dict.fromkeys(version for view in step.views for version in view.observation.runs)
    notes = tuple(dict.fromkeys([*notes, *(main.held[version] for version in runs if version in main.held)]))
    return replace(main, actions=tuple(actions), notes=notes, again_at_s=min(again, default=None))


class _Room:
    """How many launches stand in for what is hidden; no more are made.

    A policy that weighs what there is may want more where something is missing, and would bridge with on-demand
    what spot is just asked for.
    """

    def __init__(self, rollout: Rollout, seen: Observation, whole: Plan) -> None:
        markets = {one.id: one.market for one in seen.replicas}
        of_spot = [one for one in rollout.hidden if markets[one.replica] is Market.SPOT]
        self._given_up = sum(one.gives_up_spot for one in of_spot)
        alive = [one.market for one in seen.replicas if one.alive]
        self._spot = whole.spot_wanted + len(of_spot) - alive.count(Market.SPOT)
        self._others = whole.on_demand_wanted + len(rollout.hidden) - len(of_spot) - alive.count(Market.ON_DEMAND)

    def has_for(self, launch: Launch) -> bool:
        """Whether there is room for this one, which then takes it."""
        if launch.offer.market is Market.SPOT:
            self._spot -= 1
            return self._spot >= 0
        # Of what spot has been given up for, only as many as no spot is on its way for.
        self._others -= 1
        return self._others + min(self._given_up, max(0, self._spot)) >= 0


def _heeded(view: View, plan: Plan, seen: Observation) -> Iterator[Action]:
    """What of the answer this view was asked for."""
    spot = {one.id for one in seen.replicas if one.market is Market.SPOT}
    for action in plan.actions:
        if isinstance(action, Launch):
            of_spot = action.offer.market is Market.SPOT
        else:
            of_spot = action.replica in spot and action.rule is not Rule.NOTICE
        if view.part is Part.ALL or view.part is (Part.SPOT if of_spot else Part.REST):
            yield action


def _without_bridges(plan: Plan, view: View, seen: Observation, rollout: Rollout) -> Plan:
    """The plan without the on-demand replicas that would bridge what another set serves anyway.

    While spot comes or is asked for, nothing need be bridged: before a blue-green roll-out changes over the old
    set bridges its own losses, and afterwards it helps where it is ready. Where no spot is to be had, the policy
    has its way.
    """
    shown = {one.id for one in view.observation.replicas}
    unseen = sum(one.state is State.READY for one in seen.replicas if one.id not in shown)
    ready = sum(one.state is State.READY for one in seen.replicas)
    spot_comes = any(isinstance(one, Launch) and one.offer.market is Market.SPOT for one in plan.actions) or any(
        one.state in STARTING and one.market is Market.SPOT for one in view.observation.replicas
    )
    enough = unseen > 0 and (rollout.switched_s is None or ready >= seen.target)
    if not (view.bridged and spot_comes and enough):
        return plan
    kept = tuple(one for one in plan.actions if not (isinstance(one, Launch) and one.rule is Rule.FALLBACK))
    return replace(plan, actions=kept)


def _with_versions(
    view: View, actions: Iterable[Action], rollout: Rollout, held: Collection[int]
) -> Iterator[Action]:
    """The launches with what they run; those of a version whose boots fail wait."""
    tries = 0 if rollout.new in held else view.new_first
    for action in actions:
        if not isinstance(action, Launch):
            yield action
            continue
        version = view.version
        if tries:
            version, tries = rollout.new, tries - 1
        if version not in held:
            yield replace(action, version=version, reason=f"version {version}: {action.reason}")


def _told(view: View, actions: Iterable[Action]) -> Iterator[Action]:
    """The actions with reasons that say what their sums leave out."""
    names = ", ".join(view.hidden[:_MOST_NAMED])
    more = f" and {len(view.hidden) - _MOST_NAMED} more" if len(view.hidden) > _MOST_NAMED else ""
    are = "which is" if len(view.hidden) == 1 else "which are"
    for action in actions:
        if not view.hidden or action.rule is Rule.NOTICE:
            yield action
        else:
            yield replace(action, reason=f"{action.reason}{_NOT_COUNTING}{names}{more}, {are} being replaced)")


def _without_holes(
    actions: Sequence[Action], seen: Observation, rollout: Rollout, update: UpdateSpec
) -> list[Action]:
    """The actions without on-demand that would bridge the holes which ``max_unavailable`` allows an update."""
    coming = sum(
        one.state in STARTING and one.market is Market.SPOT for one in seen.replicas if one.version == rollout.new
    )
    coming += sum(
        isinstance(one, Launch) and one.offer.market is Market.SPOT and one.version == rollout.new
        for one in actions
    )
    meant = min(update.max_unavailable, coming)
    kept: list[Action] = []
    for action in actions:
        if meant and isinstance(action, Launch) and action.rule is Rule.FALLBACK:
            meant -= 1
        else:
            kept.append(action)
    return kept


def _old_first(actions: Iterable[Action], rollout: Rollout, sides: Sides, seen: Observation) -> Iterator[Action]:
    """The actions, with one that is being replaced in the place of a new one that the load no longer needs."""
    going = {action.replica for action in actions if not isinstance(action, Launch)}
    old = {one.id: one for one in sides.old}
    new = {one.id for one in sides.new if one.market is Market.SPOT}
    instead = [
        old[one.replica]
        for one in rollout.hidden
        if one.replica not in going and old[one.replica].market is Market.SPOT
    ]
    spare = sides.without(going).serving - seen.target
    for action in actions:
        if isinstance(action, Launch) or action.rule is not Rule.SCALE_DOWN or action.replica not in new:
            yield action
        elif instead and instead[0].state in STARTING:
            yield Terminate(instead.pop(0).id, action.rule, _of_all(action.reason), action.gone)
        elif instead and spare > 0:
            spare -= 1
            yield Drain(instead.pop(0).id, action.rule, _of_all(action.reason), action.gone)
        else:
            yield action


def _of_all(reason: str) -> str:
    """The reason without what its sums leave out: said of a replica that is left out it would be no reason."""
    return reason.partition(_NOT_COUNTING)[0]


# Who makes room


def _making_room(
    step: Step,
    seen: Observation,
    sides: Sides,
    wanted: Mapping[Market, int],
    update: UpdateSpec,
    *,
    launching: bool,
    held: bool,
) -> Iterator[Drain | Terminate]:
    rollout = step.rollout
    match rollout.strategy:
        case Strategy.BLUE_GREEN:
            baked = rollout.switched_s is not None and seen.now_s >= rollout.switched_s + update.bake_time
            why = f"version {rollout.new} has served for {format_duration(update.bake_time)}"
            # Those that stand in for new ones that are missing stay until these are there; for the policy's spare
            # only as long as there is hope of one, or on-demand would bridge it.
            hopes = is_coming(sides) or (
                rollout.switched_s is not None and seen.now_s < rollout.switched_s + update.bake_time + HOPE_S
            )
            shown = step.views[-1].observation
            enough = enough_ready(seen, sides, wanted, shown) if hopes and not held else seen.target
            spare = len(sides.new_ready) + sides.external_ready + len(sides.old_ready) - enough
            yield from _end(sides.old, _at_most(spare), Rule.UPDATE, why) if baked else ()
        case Strategy.ROLLBACK:
            # Whose requests fail is no spare; and boots that fail again and again bring nothing to wait for.
            comes = helps(step) and not held and more_may_come(rollout, seen, sides)
            shown = step.views[-1].observation
            gone = leaving(rollout, seen, sides, wanted, shown=shown, comes=comes)
            yield from _end(sides.old, lambda one: one in gone, Rule.ROLLBACK, f"back to version {rollout.new}")
        case Strategy.ROLLING:
            yield from _rolling_room(rollout, seen, sides, wanted, update, launching=launching or held)


def _rolling_room(
    rollout: Rollout,
    seen: Observation,
    sides: Sides,
    wanted: Mapping[Market, int],
    update: UpdateSpec,
    *,
    launching: bool,
) -> Iterator[Drain | Terminate]:
    hidden = {one.replica: one for one in rollout.hidden}
    coming = launching or any(one.state in STARTING for one in (*sides.old, *sides.new) if one.id not in hidden)
    # Until the first of the new has proven itself, what may be missing is no reason to let one go for a trial.
    missing = update.max_unavailable if sides.baked or not update.max_surge else 0
    at_a_time = max(update.max_surge, update.max_unavailable)
    if rollout.old_proven and not rollout.new_proven and not update.max_surge:
        at_a_time = int(not sides.new and not launching)  # what else would come is the old version again
    serving = [
        one for one in (*sides.old_ready, *sides.new_ready) if one.version != rollout.new or one.id in sides.baked
    ]
    # Two bounds: what the load needs, and of each market what the policy wants, or it would make up for what goes.
    spare = min(at_a_time, sides.serving - seen.target + missing)
    over = {
        market: sum(one.market is market for one in serving) - wanted[market] + missing
        for market in (Market.SPOT, Market.ON_DEMAND)
    }
    why = f"version {rollout.new} takes its place"
    for one in sides.old:
        if one.state in STARTING:
            if not rollout.old_proven or (one.id in hidden and over[one.market] >= 0):
                yield Terminate(one.id, Rule.UPDATE, f"{why}; it had not served yet", GoneReason.REPLACED)
            continue
        given_up = one.id in hidden and hidden[one.id].gives_up_spot and not coming
        if (one.id in hidden or not update.max_surge) and spare > 0 and (over[one.market] > 0 or given_up):
            spare -= 1
            over[one.market] -= 1
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
) -> Iterator[Drain | Terminate]:
    for one in replicas:
        if one.state in STARTING:
            yield Terminate(one.id, rule, f"{why}; it had not served yet", GoneReason.REPLACED)
        elif may_go(one):
            yield Drain(one.id, rule, why, GoneReason.REPLACED)
