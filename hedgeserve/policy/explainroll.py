"""What a roll-out under way means for a fleet and for each of its replicas, in sentences. Pure.

Told from what decides: who goes next from the order in which replicas are replaced, what is waited for from
:mod:`hedgeserve.policy.waits`.
"""

from collections.abc import Iterator, Sequence

from hedgeserve.policy.rolling import Rolling
from hedgeserve.policy.rollout import Part, Strategy, bake_s_of
from hedgeserve.policy.scene import NAMES, Scene
from hedgeserve.policy.waits import waits_for
from hedgeserve.replica import Market, Replica, State
from hedgeserve.units import format_count, format_duration

_MOST_NAMED = 5


def what_rolls(scene: Scene) -> str:
    """The roll-out in a few words; empty while there is none."""
    if scene.rolling is None:
        return ""
    rollout = scene.rolling.rollout
    if rollout.strategy is Strategy.ROLLBACK:
        return f"version {rollout.old} is taken back and version {rollout.new} returns"
    return f"version {rollout.old} is being replaced by version {rollout.new} ({rollout.strategy})"


def why_it_rolls_so(scene: Scene) -> Iterator[str]:
    """How far it is, what it waits for, who goes next, and what the policy is shown meanwhile."""
    if scene.rolling is None:
        return
    yield what_rolls(scene)
    rollout, update = scene.rolling.rollout, scene.rolling.update
    for told in waits_for(rollout, scene.observation, at=scene.at, update=update):
        yield f"{told[:1].lower()}{told[1:]}"
    old = scene.rolling.sides(scene.observation).old
    if old and rollout.strategy is Strategy.BLUE_GREEN:
        span = format_duration(update.bake_time)
        them = _named([one.id for one in old])
        yield f"the old set goes as a whole, {span} (`update.bake_time`) after the new one has taken over: {them}"
    elif old:
        one = old[0]
        yield (
            f"{one.id} ({NAMES[one.market]}, {one.zone}, version {one.version}) is the next to go: "
            f"{_why_first(old, scene.rolling)}"
        )
    yield from what_is_hidden(scene)


def what_is_hidden(scene: Scene) -> Iterator[str]:
    """Which replicas the policy is not shown, when it is asked where the new version goes."""
    if scene.rolling is None:
        return
    shown = {one.id for one in scene.shown.replicas}
    hidden = [str(one.id) for one in scene.observation.replicas if one.id not in shown]
    if not hidden:
        return
    names = _named(hidden)
    yield (
        f"the policy places version {scene.rolling.rollout.new} as if {names} were not there: what takes a place "
        "comes before what had it goes"
    )
    views = scene.rolling.views(scene.observation, at=scene.at)
    if (views[0].bridged or views[0].part is Part.SPOT) and any(
        one.id in hidden and one.state is State.READY for one in scene.observation.replicas
    ):
        yield "nothing on demand stands in for what is only hidden, as long as it serves and spot is to be had"


def what_it_runs(scene: Scene, replica: Replica) -> str:
    """The version of a replica and what that is in the roll-out, to go on after its name; empty without one."""
    rolling = scene.rolling
    if rolling is None or not replica.version:
        return ""
    rollout = rolling.rollout
    if replica.version != rollout.new:
        if rollout.strategy is Strategy.ROLLBACK:
            return f"runs version {replica.version}, which is taken back"
        return f"runs version {replica.version}, an old one: version {rollout.new} takes its place"
    if rollout.strategy is Strategy.ROLLBACK:
        return f"runs version {rollout.new}, which returns"
    trial = "" if rollout.new_proven or not rollout.old_proven else ", on trial"
    return f"runs version {rollout.new}, the new one{trial}"


def is_to_go(scene: Scene, replica: Replica) -> bool:
    """Whether the roll-out is what ends this replica, sooner or later."""
    rolling = scene.rolling
    return rolling is not None and any(one.id == replica.id for one in rolling.sides(scene.observation).old)


def why_it_runs_so(scene: Scene, replica: Replica) -> Iterator[str]:
    """How a replica stands in the roll-out."""
    rolling = scene.rolling
    if rolling is None or not replica.version:
        return
    rollout = rolling.rollout
    sides, bake_s = rolling.sides(scene.observation), bake_s_of(rolling.rollout, rolling.update)
    if replica.version != rollout.new or replica.state is not State.READY:
        return
    since_s = replica.since_s if replica.ready_since_s is None else replica.ready_since_s
    ready = format_duration(round(max(0.0, scene.now_s - since_s)))
    if rollout.strategy is Strategy.BLUE_GREEN and rollout.switched_s is None:
        yield "it gets no request before the whole new set takes over, unless nothing else is ready"
    elif replica.id not in sides.baked and rollout.strategy is Strategy.ROLLING:
        yield f"it counts once ready for {format_duration(bake_s)} (`update.bake_time`); it has been for {ready}"
    elif rollout.strategy is Strategy.ROLLING:
        yield f"it counts: it has been ready for {ready}, `update.bake_time` is {format_duration(bake_s)}"


def what_becomes_of_it(scene: Scene, replica: Replica) -> Iterator[str]:
    """What the roll-out has in store for a replica."""
    rolling = scene.rolling
    if rolling is None or not replica.version:
        return
    rollout, old = rolling.rollout, rolling.sides(scene.observation).old
    if replica.version == rollout.new:
        yield from _what_takes_it_back(rolling)
        return
    before = [one.id for one in old].index(replica.id) if any(one.id == replica.id for one in old) else None
    if before is None:
        return
    match rollout.strategy:
        case Strategy.ROLLBACK:
            yield (
                f"it goes when one of version {rollout.new} is ready in its place, or once as many of these are "
                "ready as the load needs and none comes any more"
            )
        case Strategy.BLUE_GREEN:
            span = format_duration(rolling.update.bake_time)
            yield f"it goes with the whole old set, {span} (`update.bake_time`) after the new one has taken over"
        case Strategy.ROLLING:
            if before == 0:
                yield f"it is the next to go: {_why_first(old, rolling)}"
            else:
                yield f"its turn comes after {_named([one.id for one in old[:before]])}"
    if rollout.strategy is not Strategy.ROLLBACK and rollout.old_proven:
        yield f"it stays if version {rollout.new} is taken back: `hedgeserve rollback` does that"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _what_takes_it_back(rolling: Rolling) -> Iterator[str]:
    rollout, update = rolling.rollout, rolling.update
    if rollout.strategy is Strategy.ROLLBACK or not rollout.old_proven:
        return
    failures = format_count(update.max_failures, "failed replica")
    yield (
        f"it goes if version {rollout.new} is taken back: by `hedgeserve rollback`, {failures} "
        f"(`update.max_failures`), one that is not ready after {format_duration(update.ready_timeout)} "
        "(`update.ready_timeout`), or more failed requests than before (`update.error_margin`)"
    )


def _why_first(old: tuple[Replica, ...], rolling: Rolling) -> str:
    """By what a replica comes before the others in the order in which they are replaced."""
    one, others = old[0], old[1:]
    if not others:
        return f"it is the last that does not run version {rolling.rollout.new}"
    if any(hidden.replica == one.id for hidden in rolling.rollout.hidden):
        return "it is being replaced already"
    if one.market is not Market.ON_DEMAND and any(other.market is Market.ON_DEMAND for other in others):
        return "spot goes before on-demand, which goes by itself where it only bridges"
    if one.state is not State.READY:
        return "what does not serve goes first"
    ready = [other for other in others if other.state is State.READY]
    if any(other.offer.usd_per_work < one.offer.usd_per_work for other in ready):
        return "the dearest goes first"
    return "of those that cost the same, the first by name goes first"
