"""The budget of a model file: its caps, and what its pools say of the worst prices."""

from collections.abc import Sequence
from datetime import datetime

from hedgeserve.hedge import Budget, Spent
from hedgeserve.replica import Offer
from hedgeserve.spec import Spec

_MARGIN_S = 60.0
"""From the end of a drain to that of the VM, with time to spare."""


def budget_of(spec: Spec) -> Budget:
    """What holds plans within the caps of this spec."""
    ceilings: dict[str, float] = {}
    for pool in spec.pools:
        if pool.max_usd_per_hour is not None:
            ceilings[pool.cloud] = max(pool.max_usd_per_hour, ceilings.get(pool.cloud, 0.0))
    return Budget(spec.budget, drain_s=spec.timeouts.drain + _MARGIN_S, ceilings=ceilings)


def no_room(spec: Spec, offers: Sequence[Offer], at: datetime) -> str:
    """Why the caps of this spec let none of these be launched, with nothing spent yet; empty: they do."""
    return budget_of(spec).no_room(at, Spent(0.0, 0.0), offers)
