"""What has become of a roll-out, and what the ready replicas of each version are for meanwhile. Pure.

A version is taken back for what it does itself: replicas that fail or never come up, requests that it fails or
refuses more often than the old one, by more than chance explains.
"""

from dataclasses import replace
from datetime import datetime
from math import sqrt

from hedgeserve.policy.plan import Observation
from hedgeserve.policy.replacing import questions
from hedgeserve.policy.rollout import (
    LEAVING,
    Count,
    Health,
    Rollout,
    Sides,
    Step,
    Strategy,
    Verdict,
    bake_s_of,
    is_old,
    sides_of,
)
from hedgeserve.replica import STARTING, Role, State
from hedgeserve.spec import UpdateSpec
from hedgeserve.units import format_count, format_duration

_LEAST_JUDGED = 20
"""Attempts on the new version below which their failures are no rate."""
_LEAST_ALL_BAD = 5
"""The same where not one of them has been answered."""
_SIGMAS = 2.0
"""Standard deviations by which a difference of rates must exceed the margin, so that chance takes nothing back."""


def look(rollout: Rollout, seen: Observation, *, at: datetime, update: UpdateSpec, health: Health) -> Step:
    """Judge this moment, and say what to ask the policy. ``at`` is UTC, the clock of the replicas' launches."""
    sides = sides_of(rollout, seen, bake_s_of(rollout, update))
    left = sum(is_old(rollout, one) and one.state not in LEAVING for one in seen.replicas)
    # Once clear, always clear: replicas come and go, and a roll-out must end some time.
    cleared_s = None if left else seen.now_s if rollout.cleared_s is None else rollout.cleared_s
    rollout = replace(rollout, cleared_s=cleared_s, new_proven=rollout.new_proven or bool(sides.baked))
    verdict, reason = _verdict(rollout, seen, sides, at=at, update=update, health=health)
    was, good = (health.counts.get(version, Count()) for version in (rollout.old, rollout.new))
    helps = not _is_failing(was, good, update)
    rollout, views = questions(rollout, seen, sides, update, old_helps=helps)
    roles = _roles(rollout, seen, sides)
    return Step(rollout, verdict, reason, roles, views, left, len(sides.new_ready))


def _verdict(
    rollout: Rollout,
    seen: Observation,
    sides: Sides,
    *,
    at: datetime,
    update: UpdateSpec,
    health: Health,
) -> tuple[Verdict, str]:
    judged = rollout.strategy is not Strategy.ROLLBACK and rollout.old_proven
    if judged and (why := _why_back(rollout, sides, at=at, update=update, health=health)):
        return Verdict.BACK, why
    if rollout.strategy is Strategy.BLUE_GREEN and rollout.switched_s is None:
        enough = len(sides.new_ready) + sides.external_ready >= seen.target
        if enough or not (sides.old_ready or not sides.new_ready):
            count = len(sides.new_ready)
            are = "is" if count == 1 else "are"
            return Verdict.SWITCH, f"{format_count(count, 'replica')} of version {rollout.new} {are} ready"
        return Verdict.GOES_ON, ""
    cleared_s = rollout.cleared_s
    # Of a blue-green one it was what the old set was kept for.
    bake_s = 0.0 if rollout.strategy is Strategy.BLUE_GREEN else bake_s_of(rollout, update)
    served = bool(sides.new_ready) or sides.external_ready > 0 or seen.target == 0
    # What an update was allowed to leave missing is its own to make good, or on-demand would bridge it at the end.
    missing = update.max_unavailable > 0 and len(sides.new_ready) + sides.external_ready < seen.target
    served = served and not (missing and any(one.state in STARTING and one.vm_id for one in sides.new))
    if cleared_s is not None and served and seen.now_s >= cleared_s + bake_s:
        return Verdict.DONE, _how_done(rollout, seen)
    return Verdict.GOES_ON, ""


def _how_done(rollout: Rollout, seen: Observation) -> str:
    leaving = [one.state for one in seen.replicas if is_old(rollout, one) and one.state in LEAVING]
    if not leaving:
        return f"all replicas run version {rollout.new}"
    finish, end = leaving.count(State.DRAINING), leaving.count(State.TERMINATING)
    # In the past: it is read for as long as the record is kept, long after the last of them has gone.
    what = "was finishing what it had" if finish == 1 else "were finishing what they had"
    still = [f"{format_count(finish, 'replica')} of another {what}"] if finish else []
    still += [f"{format_count(end, 'VM')} {'was' if end == 1 else 'were'} being ended"] if end else []
    return f"version {rollout.new} took all requests from then on, while {' and '.join(still)}"


def _why_back(rollout: Rollout, sides: Sides, *, at: datetime, update: UpdateSpec, health: Health) -> str:
    if health.failures >= update.max_failures:
        return f"{health.failures} of its replicas failed, the last with: {health.last_failure}"
    for one in sides.new:
        age_s = (at - one.created_at).total_seconds()
        if one.state in STARTING and one.vm_id is not None and age_s > update.ready_timeout:
            return f"{one.id} was not ready {format_duration(update.ready_timeout)} after its launch"
    new, old = (health.counts.get(version, Count()) for version in (rollout.new, rollout.old))
    if not _is_judged(new):
        return ""
    if _is_worse(new.failed, new.attempts, old.failed, old.attempts, update.error_margin):
        shares = f"{_share(new.failed, new.attempts)} of its attempts fail"
        return f"{shares}, {_share(old.failed, old.attempts)} on the old"
    if _is_worse(new.refused, new.attempts, old.refused, old.attempts, update.error_margin):
        shares = f"{_share(new.refused, new.attempts)} of its answers are refusals (4xx)"
        return f"{shares}, {_share(old.refused, old.attempts)} on the old"
    return ""


def _is_judged(count: Count) -> bool:
    """Whether there have been enough attempts for their failures to be a rate."""
    return count.attempts >= (_LEAST_ALL_BAD if count.failed == count.attempts else _LEAST_JUDGED)


def _is_failing(count: Count, before: Count, update: UpdateSpec) -> bool:
    """Whether a version fails or refuses more than another one, or than none where nothing is known of that."""
    return _is_judged(count) and (
        _is_worse(count.failed, count.attempts, before.failed, before.attempts, update.error_margin)
        or _is_worse(count.refused, count.attempts, before.refused, before.attempts, update.error_margin)
    )


def _is_worse(bad: int, of: int, bad_before: int, of_before: int, margin: float) -> bool:
    """Whether a share is above another one by more than the margin and more than chance."""
    share, before = bad / of, bad_before / of_before if of_before else 0.0
    pooled = (bad + bad_before) / (of + of_before)
    chance = sqrt(pooled * (1 - pooled) * (1 / of + 1 / max(1, of_before)))
    return share > before + margin + _SIGMAS * chance or (share == 1.0 and before + margin < 0.5)


def _share(bad: int, of: int) -> str:
    return f"{bad / of:.1%}" if of else "none"


def _roles(rollout: Rollout, seen: Observation, sides: Sides) -> dict[int, Role]:
    match rollout.strategy:
        case Strategy.ROLLBACK:
            return {one.version: Role.SPARE for one in seen.replicas if is_old(rollout, one)}
        case Strategy.BLUE_GREEN:
            return _blue_green_roles(rollout, seen, sides)
        case Strategy.ROLLING:
            return {}


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
