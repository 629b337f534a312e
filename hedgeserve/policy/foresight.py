"""What the policy would do next by itself, if nothing happens or if what starts comes up: asked, not guessed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from hedgeserve.policy.plan import Action, Launch, Observation
from hedgeserve.policy.scene import NAMES, Scene
from hedgeserve.replica import STARTING, Market, Replica, ReplicaId, State

_LOOK_AHEAD_S = 3600.0
_MOST_LOOKS = 60
_SOONEST_S = 1.0


@dataclass(frozen=True, slots=True)
class Foreseen:
    """An action to come, when (monotonic), and the replicas that must have become ready for it."""

    action: Action
    at_s: float
    ready_first: tuple[ReplicaId, ...] = ()

    def words(self, scene: Scene) -> str:
        """In a sentence, with the policy's own reason."""
        action = self.action
        if isinstance(action, Launch):
            what = f"{NAMES[action.offer.market]} would be launched in {action.offer.zone}"
        else:
            what = f"{action.replica} goes"
        if self.at_s <= scene.now_s:
            return f"{what} now: {action.reason}"
        if self.ready_first:
            them = f"{' and '.join(self.ready_first)} {'comes' if len(self.ready_first) == 1 else 'come'} up"
            about = f" at about {scene.clock(self.at_s)}" if scene.boot_s is not None else ""
            return f"{what}{about}, if {them}: {action.reason}"
        return f"{what} at {scene.clock(self.at_s)}, if nothing happens before: {action.reason}"


def foresee(scene: Scene, wanted: Callable[[Action], bool]) -> Foreseen | None:
    """The first wanted thing that the policy would do within the hour; None: nothing.

    First it is asked about the fleet as it is while time goes by; only then with replicas that start, those on
    spot or all, ready when they should be. In a roll-out, which waits for those that start and does not wait for
    ever, it is what comes first of all these. Nothing is launched while that is halted, nor above the caps.
    """
    if scene.resting:
        return None
    heeded = (lambda action: not isinstance(action, Launch) and wanted(action)) if scene.halts else wanted
    starting = scene.starting()
    spot = [one for one in starting if one.market is Market.SPOT]
    found = None
    for coming in ([], spot, starting) if starting else ([],):
        if found is None or scene.rolling is not None:
            other = _look(scene, heeded, {one.id: ready_at_s(scene, one) for one in coming})
            found = min((one for one in (found, other) if one is not None), key=lambda one: one.at_s, default=None)
    scene.policy.plan(scene.shown)  # what the policy tells of its zones is as of now again
    return found


def lets_go(replica: Replica) -> Callable[[Action], bool]:
    """Whether an action is the end of this replica."""
    return lambda action: not isinstance(action, Launch) and action.replica == replica.id


def ready_at_s(scene: Scene, replica: Replica) -> float:
    """When a replica that starts should be ready, going by the last ones; never in the past."""
    age_s = max(0.0, (scene.at - replica.created_at).total_seconds())
    return max(scene.now_s + _SOONEST_S, scene.now_s - age_s + (scene.boot_s or 0.0))


def _look(scene: Scene, wanted: Callable[[Action], bool], arrivals_s: dict[ReplicaId, float]) -> Foreseen | None:
    at_s, last_s, rolling = scene.now_s, scene.now_s + _LOOK_AHEAD_S, scene.rolling
    for _ in range(_MOST_LOOKS):
        seen, at = _seen(scene.observation, at_s, arrivals_s), scene.at + timedelta(seconds=at_s - scene.now_s)
        if rolling is None:
            plan = scene.policy.plan(seen)
        else:
            moment = rolling.go(scene.policy.plan, seen, at=at)
            plan, rolling = moment.plan, moment.after
        plan = scene.allowed(plan, seen)
        for action in plan.actions:
            if wanted(action):
                return Foreseen(action, at_s, tuple(one for one, ready_s in arrivals_s.items() if ready_s <= at_s))
        later = [
            time_s
            for time_s in (
                plan.again_at_s,
                *arrivals_s.values(),
                *(rolling.moments(seen, at=at) if rolling is not None else ()),
            )
            if time_s is not None and time_s > at_s
        ]
        if not later or min(later) > last_s:
            return None
        at_s = min(later)
    return None


def _seen(seen: Observation, at_s: float, arrivals_s: dict[ReplicaId, float]) -> Observation:
    """The fleet at a time to come, with those ready that have arrived by then."""
    return replace(
        seen,
        now_s=at_s,
        replicas=tuple(
            replace(one, state=State.READY, since_s=ready_s, ready_since_s=ready_s)
            if one.state in STARTING and (ready_s := arrivals_s.get(one.id, at_s + 1)) <= at_s
            else one
            for one in seen.replicas
        ),
    )
