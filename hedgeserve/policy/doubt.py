"""Replicas in doubt: too silent, and a question at once was not answered. Pure.

Whether such a replica has failed is decided by its probes, which give it time to heal. A replacement takes longer
still. So it is launched at once, and the one in doubt is ended by its probes alone: a false alarm costs a boot,
and no answer.
"""

from collections.abc import Collection
from dataclasses import replace

from hedgeserve.policy.plan import Launch, Observation, Plan
from hedgeserve.replica import Market, ReplicaId, State


def counted(observation: Observation, doubted: Collection[ReplicaId]) -> Observation:
    """What a policy is to see: replicas in doubt as if under notice, so that others are launched in their place.

    No more than half of the ready ones, but one at least: where more are silent at once, it may be us who hear
    nothing, and a second fleet would be launched for a cable.
    """
    if not doubted:
        return observation
    ready = [one for one in observation.replicas if one.state is State.READY]
    silent = [one.id for one in ready if one.id in doubted and one.market is not Market.EXTERNAL]
    believed = set(silent[: max(1, len(ready) // 2)])
    return replace(
        observation,
        replicas=tuple(
            replace(one, state=State.NOTICED) if one.id in believed else one for one in observation.replicas
        ),
    )


def spared(plan: Plan, doubted: Collection[ReplicaId]) -> Plan:
    """The plan without what it does to replicas in doubt."""
    if not doubted:
        return plan
    left = tuple(one for one in plan.actions if isinstance(one, Launch) or one.replica not in doubted)
    return plan if len(left) == len(plan.actions) else replace(plan, actions=left)
