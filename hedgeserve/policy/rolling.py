"""A roll-out as it goes on: what is done at a moment, now or to come, and what it is from then on. Pure.

The very steps of the service's tick (:func:`~hedgeserve.policy.verdict.look`, the policy, and
:func:`~hedgeserve.policy.amending.amend`), without a store between them: for whoever wants to know what would be.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from hedgeserve.policy.amending import amend
from hedgeserve.policy.plan import Observation, Plan
from hedgeserve.policy.replacing import PATIENCE_S
from hedgeserve.policy.returning import HOPE_S
from hedgeserve.policy.rollout import (
    Health,
    Rollout,
    Sides,
    Step,
    Strategy,
    Verdict,
    View,
    bake_s_of,
    sides_of,
)
from hedgeserve.policy.verdict import look
from hedgeserve.replica import STARTING, ReplicaId, State
from hedgeserve.spec import UpdateSpec

_MOST_LOOKS = 3
_JUST_AFTER_S = 0.001


@dataclass(frozen=True, slots=True)
class Leaving:
    """Whom a roll-out is going to end: ``next`` at any moment now, ``later`` not before those are gone."""

    next: frozenset[ReplicaId] = frozenset()
    later: frozenset[ReplicaId] = frozenset()


@dataclass(frozen=True, slots=True)
class Rolling:
    """A roll-out under way, by which rules it goes on, and how its versions fare."""

    rollout: Rollout
    update: UpdateSpec
    health: Health = field(default_factory=Health)

    def go(self, ask: Callable[[Observation], Plan], seen: Observation, *, at: datetime) -> "Moment":
        """What is done at this moment, where ``ask`` is the policy; ``at`` is UTC, at ``seen.now_s``."""
        going, verdicts = self, []
        # A verdict may change what is to be judged: that is looked at once more.
        for _ in range(_MOST_LOOKS):
            step = look(going.rollout, seen, at=at, update=self.update, health=going.health)
            verdicts.append((step.verdict, step.reason))
            after = going._after(step, seen.now_s)
            if after is None:
                seen = replace(seen, runs=(step.rollout.new,))  # which may have been another a verdict ago
                return Moment(ask(seen), None, None, tuple(verdicts))
            going = after
            if step.verdict is Verdict.GOES_ON:
                break
        plans = [ask(view.observation) for view in step.views]
        return Moment(amend(step, seen, plans, update=self.update), going, step, tuple(verdicts))

    def sides(self, seen: Observation) -> Sides:
        """Who runs the new version and who is to go, in the order in which they go."""
        return sides_of(self.rollout, seen, bake_s_of(self.rollout, self.update))

    def leaving(self, seen: Observation) -> Leaving:
        """Whom it is going to end; of a blue-green one nobody before its requests have changed over."""
        old = [one.id for one in self.sides(seen).old]
        match self.rollout.strategy:
            case Strategy.ROLLBACK:
                soon = frozenset(old)
            case Strategy.BLUE_GREEN:
                soon = frozenset(old if self.rollout.switched_s is not None else ())
            case Strategy.ROLLING:
                hidden = frozenset(one.replica for one in self.rollout.hidden)
                soon = frozenset(old[: max(1, self.update.max_surge, self.update.max_unavailable)]) | hidden
        return Leaving(soon, frozenset(old) - soon)

    def views(self, seen: Observation, *, at: datetime) -> tuple[View, ...]:
        """What the policy is asked at this moment, first of all about the new version."""
        return look(self.rollout, seen, at=at, update=self.update, health=self.health).views

    def moments(self, seen: Observation, *, at: datetime) -> Iterator[float]:
        """When something may be otherwise by itself (monotonic): a replica counts, or has taken too long."""
        rollout, bake_s = self.rollout, bake_s_of(self.rollout, self.update)
        for one in seen.replicas:
            if one.version != rollout.new:
                continue
            if one.state is State.READY:
                yield (one.since_s if one.ready_since_s is None else one.ready_since_s) + bake_s
            elif one.state in STARTING and one.vm_id is not None and rollout.strategy is not Strategy.ROLLBACK:
                age_s = (at - one.created_at).total_seconds()
                yield seen.now_s + self.update.ready_timeout - age_s + _JUST_AFTER_S
        if rollout.strategy is Strategy.ROLLBACK:
            for kept in rollout.hidden:
                yield from (kept.since_s + PATIENCE_S, kept.since_s + HOPE_S)
        for since_s in (rollout.switched_s, rollout.cleared_s):
            if since_s is not None:
                yield since_s + bake_s

    def _after(self, step: Step, now_s: float) -> "Rolling | None":
        """The roll-out once this step's verdict is heeded; None: there is none any more."""
        rollout = step.rollout
        match step.verdict:
            case Verdict.DONE:
                return None
            case Verdict.SWITCH:
                rollout = replace(rollout, switched_s=now_s)
            case Verdict.BACK:
                return Rolling(
                    Rollout(
                        old=rollout.new,
                        new=rollout.old,
                        strategy=Strategy.ROLLBACK,
                        old_proven=rollout.new_proven,
                        new_proven=True,
                    ),
                    self.update,
                    Health(self.health.counts),
                )
            case Verdict.GOES_ON:
                pass
        return replace(self, rollout=rollout)


@dataclass(frozen=True, slots=True)
class Moment:
    """What is done at one moment: the plan, the roll-out from then on (None: over), the verdicts."""

    plan: Plan
    after: Rolling | None
    step: Step | None
    verdicts: tuple[tuple[Verdict, str], ...]
