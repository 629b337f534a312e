"""How what was taken back leaves while the version before returns: one for one, and not for ever. Pure.

It serves as a spare while more of the good version come. Were it let go as soon as the load has enough, the
policy would bridge the spare that it also wants with on-demand, though spot is on its way. It goes all the same
once nothing has come for long enough: a roll-back ends, whatever the clouds give.
"""

from collections.abc import Collection, Mapping

from hedgeserve.policy.plan import Observation
from hedgeserve.policy.replacing import GRANTED, PATIENCE_S
from hedgeserve.policy.rollout import Part, Rollout, Sides, Step
from hedgeserve.replica import Market, Replica, State

HOPE_S = 2 * PATIENCE_S
"""For so long more of the good version are waited for while none starts: first for spot, then for on-demand."""


def helps(step: Step) -> bool:
    """Whether what was taken back is a spare: some of it is ready, and its requests are not known to fail."""
    return step.views[-1].part is not Part.ALL


def hopes_until_s(rollout: Rollout) -> float | None:
    """Until when more of the good version are waited for, if none starts before; None: nobody is left to wait."""
    return max((one.since_s + HOPE_S for one in rollout.hidden), default=None)


def is_coming(sides: Sides) -> bool:
    """Whether one more of the good version is on its way."""
    return any(one.state in GRANTED for one in sides.new)


def more_may_come(rollout: Rollout, seen: Observation, sides: Sides) -> bool:
    """Whether more of the good version are on their way, or may be launched yet."""
    until_s = hopes_until_s(rollout)
    return is_coming(sides) or (until_s is not None and seen.now_s < until_s)


def leaving(
    rollout: Rollout,
    seen: Observation,
    sides: Sides,
    wanted: Mapping[Market, int],
    *,
    shown: Observation,
    comes: bool,
) -> list[Replica]:
    """The ready ones of what was taken back that go now.

    ``wanted`` is what the policy wants in the world that it was ``shown`` last. ``comes`` says whether it is worth
    waiting for more of the good version than the load needs.
    """
    good = len(sides.new_ready) + sides.external_ready
    if good >= seen.target and not comes:
        return sides.old_ready
    ready = [*sides.old_ready, *sides.new_ready]
    spare = len(ready) + sides.external_ready - enough_ready(seen, sides, wanted, shown)
    # Of each market what the policy wants, too: a bridge does not take the place of spot.
    over = {market: sum(one.market is market for one in ready) - wanted[market] for market in wanted}
    given_up: Collection[str] = {one.replica for one in rollout.hidden if one.gives_up_spot}
    gone: list[Replica] = []
    for one in sides.old_ready:
        if spare > 0 and (one.id in given_up or over[one.market] > 0):
            spare -= 1
            over[one.market] -= 1
            gone.append(one)
    return gone


def enough_ready(seen: Observation, sides: Sides, wanted: Mapping[Market, int], shown: Observation) -> int:
    """How many ready ones the policy wants, where a bridge and the spot that it bridges count as one."""
    spot = sum(one.market is Market.SPOT and one.state is State.READY for one in shown.replicas)
    bridged = max(0, min(wanted[Market.ON_DEMAND], wanted[Market.SPOT] - spot))
    return max(seen.target, sum(wanted.values()) - bridged + sides.external_ready)
