"""How a new version takes the place of an old one: who is replaced, and what the policy is asked. Pure.

A roll-out places nothing itself. It shows the policy a world in which what is to be replaced is missing, and the
policy launches the replacements as it would any others: in its zones, at its prices, with its pauses. What comes
of its answers is in :mod:`hedgeserve.policy.amending`.

What a rolling update hides serves on, and two things follow. It stays hidden until it is gone: were another one
hidden in its place, the policy would see one too many here and one too few there, and end what it has just
launched. And only spot is asked for as if it were missing: on-demand, which bridges real losses, is decided in the
world as it is, or one loss would be bridged twice.

A roll-back hides all of what is taken back at once, and asks in the same two ways: what of it serves still serves
until others do in its place (:mod:`hedgeserve.policy.returning`), and needs no bridge.
"""

from collections.abc import Sequence
from dataclasses import replace

from hedgeserve.policy.plan import Observation
from hedgeserve.policy.rollout import Hidden, Part, Rollout, Sides, Strategy, View
from hedgeserve.replica import STARTING, Market, Replica, ReplicaId, State
from hedgeserve.spec import UpdateSpec

PATIENCE_S = 60.0
"""For so long nothing but spot is taken for the place of a spot replica."""
GRANTED = STARTING - {State.PLANNED, State.PROVISIONING}
"""States of a replica that starts, once its cloud has given it a VM."""
SETTLED_S = 900.0
"""On-demand beside spot is replaced once it has been ready for so long: a bridge would be gone by then."""


def questions(
    rollout: Rollout, seen: Observation, sides: Sides, update: UpdateSpec, *, old_helps: bool = True
) -> tuple[Rollout, tuple[View, ...]]:
    """What to ask the policy at this moment, and the roll-out with what is hidden for it.

    ``old_helps`` says whether what is taken back answers as it should, as far as is known.
    """
    match rollout.strategy:
        case Strategy.ROLLBACK:
            rollout = replace(rollout, hidden=_hidden_by_a_rollback(rollout, seen, sides))
            return rollout, _rollback(rollout, seen, sides, helps=old_helps)
        case Strategy.BLUE_GREEN:
            return rollout, _blue_green(rollout, seen)
        case Strategy.ROLLING:
            rollout = replace(rollout, hidden=_hidden(rollout, seen, sides, update))
            return rollout, _rolling(rollout, seen, sides, update)


def _without(seen: Observation, hidden: set[ReplicaId], *runs: int) -> Observation:
    """The world without these, for launches that run these versions."""
    return replace(seen, replicas=tuple(one for one in seen.replicas if one.id not in hidden), runs=runs)


def _hidden(rollout: Rollout, seen: Observation, sides: Sides, update: UpdateSpec) -> tuple[Hidden, ...]:
    """As many as may be replaced at a time: those that are being replaced, then the next ones."""
    old = {one.id: one for one in sides.old}
    stay = [one for one in rollout.hidden if one.replica in old]
    spot_comes = any(one.market is Market.SPOT and one.state in STARTING and one.vm_id for one in seen.replicas)
    spot_offered = any(one.market is Market.SPOT for one in seen.offers)
    bridges = {
        one.id
        for one in sides.old
        if spot_offered and one.market is not Market.SPOT and not _is_settled(one, seen.now_s)
    }
    able = [one for one in sides.old if one.id not in bridges]
    if not spot_comes and len(sides.new) == len(sides.baked):  # nothing is on its way in anybody's place
        stay, able = _impatient(stay, able, seen.now_s)
    there = {one.replica for one in stay}
    stay += [Hidden(one.id, seen.now_s) for one in able if one.id not in there]
    return tuple(stay[: update.max_surge])


def _is_settled(one: Replica, now_s: float) -> bool:
    """Whether this on-demand replica is here to stay, and no mere bridge that goes once spot is ready."""
    return one.state is State.READY and one.ready_since_s is not None and now_s >= one.ready_since_s + SETTLED_S


def _impatient(
    stay: Sequence[Hidden], able: Sequence[Replica], now_s: float
) -> tuple[list[Hidden], list[Replica]]:
    """Who is replaced, and the order of the next ones, where spot for them has not come for long.

    On-demand can be replaced meanwhile; where there is none, spot is given up for on-demand.
    """
    old = {one.id: one for one in able}
    there = {one.replica for one in stay}
    waited = [one for one in stay if old[one.replica].market is Market.SPOT and now_s >= one.since_s + PATIENCE_S]
    if not waited:
        return list(stay), list(able)
    if any(one.market is not Market.SPOT and one.id not in there for one in able):
        first = sorted(able, key=lambda one: one.market is Market.SPOT)
        return [one for one in stay if one not in waited], first
    return [replace(one, gives_up_spot=one.gives_up_spot or one in waited) for one in stay], list(able)


def _hidden_by_a_rollback(rollout: Rollout, seen: Observation, sides: Sides) -> tuple[Hidden, ...]:
    """All of what is taken back; given up for on-demand where no spot has come for it for long."""
    known = {one.replica: one for one in rollout.hidden}
    # What a cloud has not granted yet is no sign: where spot is refused, it is asked for again and again.
    comes = any(one.market is Market.SPOT and one.state in GRANTED for one in sides.new)
    hidden: list[Hidden] = []
    for one in sides.old:
        before = known.get(one.id, Hidden(one.id, seen.now_s))
        if comes and not before.gives_up_spot:
            before = replace(before, since_s=seen.now_s)
        waited = seen.now_s >= before.since_s + PATIENCE_S
        hidden.append(replace(before, gives_up_spot=before.gives_up_spot or waited))
    return tuple(hidden)


def _rollback(rollout: Rollout, seen: Observation, sides: Sides, *, helps: bool) -> tuple[View, ...]:
    old = {one.id for one in sides.old}
    bare = _without(seen, old, rollout.new)
    if not sides.old_ready or not helps:  # of what is taken back nothing helps: as if it were gone already
        return (View(bare, rollout.new),)
    spot_offered = any(one.market is Market.SPOT for one in seen.offers)
    given_up = {one.replica for one in rollout.hidden if one.gives_up_spot}
    # What does not serve yet never will; on-demand that is more than a bridge is replaced by on-demand.
    rest = {
        one.id
        for one in sides.old
        if one.state in STARTING
        or one.id in given_up
        or (one.market is not Market.SPOT and (not spot_offered or _is_settled(one, seen.now_s)))
    }
    return (
        View(bare, rollout.new, part=Part.SPOT),
        View(_without(seen, rest, rollout.new), rollout.new, part=Part.REST),
    )


def _rolling(rollout: Rollout, seen: Observation, sides: Sides, update: UpdateSpec) -> tuple[View, ...]:
    proven = rollout.new_proven or not rollout.old_proven
    # Until one of the new has proven itself, only so many try; what is lost meanwhile comes back as it was.
    version = rollout.new if proven else rollout.old
    tries = 0 if proven else max(0, max(1, update.max_surge) - len(sides.new))
    # Where there is no way back, what has not served yet is no use to anybody.
    useless = set() if rollout.old_proven else {one.id for one in sides.old if one.state in STARTING}
    spot = {one.id for one in sides.old if one.market is Market.SPOT}
    both = tuple(one.replica for one in rollout.hidden)
    rest = tuple(one.replica for one in rollout.hidden if one.gives_up_spot or one.replica not in spot)
    instead = min(tries, len(rest))

    def view(hidden: tuple[ReplicaId, ...], tries: int, part: Part) -> View:
        runs = (rollout.new, version) if tries else (version,)
        return View(_without(seen, {*hidden, *useless}, *runs), version, tries, part, hidden)

    if not both:
        return (view((), tries, Part.ALL),)
    if not rest:
        return view(both, tries, Part.SPOT), view((), 0, Part.REST)
    whole = view((), 0, Part.SUMS)
    if both == rest:
        return view(both, tries, Part.ALL), whole
    return view(both, tries - instead, Part.SPOT), view(rest, instead, Part.REST), whole


def _blue_green(rollout: Rollout, seen: Observation) -> tuple[View, ...]:
    # Two worlds, each as if the other were not there; what is on its way out belongs to the one that serves.
    blue = tuple(one for one in seen.replicas if one.version != rollout.new)
    if rollout.switched_s is not None:
        kept = {one.id for one in blue if one.version and one.alive}
        return (View(_without(seen, kept, rollout.new), rollout.new, bridged=True),)
    green = tuple(one for one in seen.replicas if one.version in (0, rollout.new))
    return (
        View(replace(seen, replicas=green, runs=(rollout.new,)), rollout.new, bridged=True),
        View(replace(seen, replicas=blue, runs=(rollout.old,)), rollout.old),
    )
