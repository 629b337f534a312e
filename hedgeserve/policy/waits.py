"""What a roll-out waits for, in sentences for people. Pure.

Told from the same objects that decide (:mod:`hedgeserve.policy.rollout`), so that nothing else is said than what
is done.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from hedgeserve.policy.plan import Observation
from hedgeserve.policy.replacing import SETTLED_S
from hedgeserve.policy.returning import hopes_until_s, is_coming
from hedgeserve.policy.rollout import LEAVING, Rollout, Sides, Strategy, bake_s_of, sides_of
from hedgeserve.replica import STARTING, Replica, State
from hedgeserve.spec import UpdateSpec
from hedgeserve.units import format_count, format_duration

_MOST_NAMED = 5
"""Replicas that are told of by name, for each thing that is waited for."""


def waits_for(rollout: Rollout, seen: Observation, *, at: datetime, update: UpdateSpec) -> tuple[str, ...]:
    """How far it is, then what it waits for, the nearest first; at least one sentence, a dozen or two at most.

    ``at`` is UTC, the clock of the replicas' launches, at ``seen.now_s``.
    """
    sides = sides_of(rollout, seen, bake_s_of(rollout, update))
    told = [_so_far(rollout, seen, sides)]
    match rollout.strategy:
        case Strategy.ROLLING:
            told += _rolling(rollout, seen, sides, at=at, update=update)
        case Strategy.BLUE_GREEN:
            told += _blue_green(rollout, seen, sides, at=at, update=update)
        case Strategy.ROLLBACK:
            told += _back(rollout, seen, sides, at=at, update=update)
    told += _leaving(rollout, seen)
    return tuple(told)


def _so_far(rollout: Rollout, seen: Observation, sides: Sides) -> str:
    ready = len(sides.new_ready) + len(sides.old_ready)
    run_it = f"{len(sides.new_ready)} of {format_count(ready, 'ready replica')} run it"
    return f"Version {rollout.new} ({rollout.strategy}): {run_it}, the load needs {seen.target}"


def _rolling(
    rollout: Rollout, seen: Observation, sides: Sides, *, at: datetime, update: UpdateSpec
) -> Iterator[str]:
    yield from _starting(rollout, seen, sides.new, at=at, update=update)
    yield from _baking(seen, sides, update)
    if not sides.old:
        yield from _nothing_old(rollout, seen, sides, update)
        return
    starting = [one for one in sides.new if one.state in STARTING]
    unbaked = len(sides.new_ready) > len(sides.baked)
    if not starting and not unbaked:
        if not rollout.hidden and update.max_surge:
            yield (
                f"On-demand ({', '.join(one.id for one in sides.old[:_MOST_NAMED])}) is replaced once it has been "
                f"ready for {format_duration(SETTLED_S)}: where it only bridges, it goes by itself before"
            )
        elif update.max_surge:
            yield (
                f"No replica of version {rollout.new} is on its way: it waits for the next launch "
                "(what keeps one from being launched stands in the notes)"
            )
        elif sides.serving - seen.target + update.max_unavailable <= 0:
            yield _too_few(sides, seen, update)
    elif sides.baked and sides.serving - seen.target + update.max_unavailable <= 0:
        yield _too_few(sides, seen, update)


def _too_few(sides: Sides, seen: Observation, update: UpdateSpec) -> str:
    less = f", less {update.max_unavailable} (`update.max_unavailable`)" if update.max_unavailable else ""
    return f"No old replica goes before more than {seen.target}{less} can be counted on: now {sides.serving} can"


def _blue_green(
    rollout: Rollout, seen: Observation, sides: Sides, *, at: datetime, update: UpdateSpec
) -> Iterator[str]:
    yield from _starting(rollout, seen, sides.new, at=at, update=update)
    ready = len(sides.new_ready) + sides.external_ready
    if rollout.switched_s is None:
        yield (
            "All requests change over once as many of the new are ready as the load needs: "
            f"{ready} of {seen.target}"
        )
        return
    left_s = rollout.switched_s + update.bake_time - seen.now_s
    if not sides.old:
        yield from _nothing_old(rollout, seen, sides, update)
    elif left_s > 0:
        yield (
            f"Its requests have changed over; the old set stays ready for {_span(left_s)} more "
            f"(`update.bake_time` = {format_duration(update.bake_time)})"
        )
    elif ready < seen.target:
        yield f"The old set stays until as many of the new are ready as the load needs: {ready} of {seen.target}"
    else:
        yield "The load has what it needs; the old set stays while a spare of the new one may still come"


def _back(rollout: Rollout, seen: Observation, sides: Sides, *, at: datetime, update: UpdateSpec) -> Iterator[str]:
    yield from _starting(rollout, seen, sides.new, at=at, update=update)
    if not sides.old:
        yield from _nothing_old(rollout, seen, sides, update)
    elif sides.old_ready:
        many = len(sides.old_ready)
        spares = f"{format_count(many, 'replica')} of what was taken back"
        spares += " stays as a spare" if many == 1 else " stay as spares"
        yield f"{spares} {_how_long_spares_stay(rollout, seen, sides)}"


def _how_long_spares_stay(rollout: Rollout, seen: Observation, sides: Sides) -> str:
    ready, until_s = len(sides.new_ready) + sides.external_ready, hopes_until_s(rollout)
    each = f"one goes for each of version {rollout.new} that has come"
    if ready < seen.target:
        return f"({each}): {ready} of the {seen.target} that the load needs are ready"
    if until_s is None or is_coming(sides):
        return f"({each}): the load has what it needs, the policy wants more"
    return (
        f"for {_span(until_s - seen.now_s)} more, if no replica of version {rollout.new} starts before: the load "
        "has what it needs (what keeps one from being launched stands in the notes)"
    )


def _starting(
    rollout: Rollout, seen: Observation, new: Iterable[Replica], *, at: datetime, update: UpdateSpec
) -> Iterator[str]:
    starting = [one for one in new if one.state in STARTING]
    judged = rollout.strategy is not Strategy.ROLLBACK and rollout.old_proven
    for one in starting[:_MOST_NAMED]:
        since = f"{one.state} for {_span(seen.now_s - one.since_s)}"
        until = ""
        if judged and one.vm_id is not None:
            left_s = update.ready_timeout - (at - one.created_at).total_seconds()
            until = (
                f"; if it is not in {_span(left_s)}, the version is taken back: `update.ready_timeout` is "
                f"{format_duration(update.ready_timeout)}"
            )
        yield f"It waits for {one.id} to become ready ({since}{until})"
    yield from _more(starting)


def _baking(seen: Observation, sides: Sides, update: UpdateSpec) -> Iterator[str]:
    baking = [one for one in sides.new_ready if one.id not in sides.baked]
    for one in baking[:_MOST_NAMED]:
        since_s = one.since_s if one.ready_since_s is None else one.ready_since_s
        yield (
            f"{one.id} has been ready for {_span(seen.now_s - since_s)} of the "
            f"{format_duration(update.bake_time)} of `update.bake_time`"
        )
    yield from _more(baking)


def _nothing_old(rollout: Rollout, seen: Observation, sides: Sides, update: UpdateSpec) -> Iterator[str]:
    if seen.target and not sides.new_ready and not sides.external_ready:
        yield f"It ends once a replica of version {rollout.new} is ready"
    elif rollout.cleared_s is not None and rollout.strategy is Strategy.ROLLING:
        left_s = rollout.cleared_s + update.bake_time - seen.now_s
        if left_s > 0:
            yield f"No replica of another version is left: it is watched for {_span(left_s)} more, then done"


def _leaving(rollout: Rollout, seen: Observation) -> Iterator[str]:
    leaving = [one for one in seen.replicas if one.version not in (0, rollout.new) and one.state in LEAVING]
    for one in leaving[:_MOST_NAMED]:
        does = "finishes its requests" if one.state is State.DRAINING else "is being ended"
        yield f"{one.id} of version {one.version} {does}, for {_span(seen.now_s - one.since_s)} now"
    yield from _more(leaving)


def _more(replicas: Sequence[Replica]) -> Iterator[str]:
    if len(replicas) > _MOST_NAMED:
        yield f"The same holds for {len(replicas) - _MOST_NAMED} more"


def _span(seconds: float) -> str:
    return format_duration(round(max(0.0, seconds)))
