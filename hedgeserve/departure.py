"""How a service ends: its requests first, then the VMs that are to go, and what is said of those that stay."""

import asyncio
from collections.abc import Collection, Iterable
from typing import Final

from hedgeserve.balancer import Balancer
from hedgeserve.fleet import EventKind, Fleet, Journal
from hedgeserve.hedge import compares
from hedgeserve.money import Money, Run
from hedgeserve.race import race
from hedgeserve.spec import Cloud, OnExit, Spec
from hedgeserve.units import format_duration, format_usd, format_usd_per_hour
from hedgeserve.winddown import Resting

_TERMINATE_IN_A_HURRY_S: Final = 10.0
_TERMINATE_LIMIT_S: Final = 300.0
_TAKE_DOWN_LIMIT_S: Final = 1800.0


class Orders:
    """What has been asked of a service's end, before and while it happens."""

    def __init__(self) -> None:
        self.now = asyncio.Event()
        """Set where nobody's requests are to be waited for."""
        self.everything = False
        """Whether every VM is to go, whatever ``service.on_exit`` says."""

    def all_goes(self, spec: Spec) -> bool:
        """Whether not only VMs go but all that the service has in its clouds."""
        return self.everything or spec.service.on_exit is OnExit.TERMINATE

    def clouds_to_clear(self, spec: Spec, clouds: Iterable[str]) -> frozenset[str]:
        """Those of these clouds whose VMs are to go."""
        if self.all_goes(spec):
            return frozenset(clouds)
        if spec.service.on_exit is OnExit.AUTO:
            return frozenset(clouds) & {Cloud.LOCAL}
        return frozenset()


async def depart(
    spec: Spec,
    orders: Orders,
    *,
    balancer: Balancer,
    fleet: Fleet,
    journal: Journal,
    resting: Resting,
    money: Money,
    clouds: Collection[str],
    ran_s: float,
) -> str:
    """Let requests finish, end the VMs that are to go, and return what the run has cost and what is left of it.

    What is not done when time runs out stands in the journal, for the next start. Nothing may be launched any more
    when this is called.
    """
    await journal.event(EventKind.STOPPING, "no new requests; the running ones may finish")
    if not orders.now.is_set():
        await race(now=orders.now.wait(), drained=balancer.drain(spec.timeouts.drain))
    await balancer.aclose()
    if leaving := orders.clouds_to_clear(spec, clouds):
        await race(
            done=_take_down(spec, orders, fleet, resting, leaving),
            hurried=_after_a_hurry(orders),
            patience=asyncio.sleep(_TAKE_DOWN_LIMIT_S if orders.all_goes(spec) else _TERMINATE_LIMIT_S),
        )
    await fleet.bill()
    kept = sum(replica.vm_id is not None for replica in fleet.replicas())
    if leaving and not kept:
        await resting.begin_anew()
    them = f"{kept} replica{'s keep' if kept > 1 else ' keeps'} running"
    told = f"; {them} ({format_usd_per_hour(fleet.usd_per_hour())})" if kept else ""
    await journal.event(EventKind.STOPPED, f"HedgeServe stopped{told}")
    if not clouds:  # servers of somebody else's: they cost nothing here, and were never ours to end
        return "HedgeServe has stopped"
    left = f"{told}, and `hedgeserve down` would end {'them' if kept > 1 else 'it'}" if kept else "; no VM is left"
    return f"HedgeServe has stopped: {spent_in_words(money.run_so_far, ran_s)}{left}"


def spent_in_words(run: Run, ran_s: float) -> str:
    """What a run has cost; beside on-demand alone only once that says more than how both boot."""
    told = f"{format_usd(run.usd)} spent in {format_duration(round(ran_s)) or '0s'}"
    if run.unpriced_s or not compares(run.seconds) or run.alone_usd <= 0:
        return told
    saved = run.alone_usd - run.usd
    than = "less than" if saved >= 0 else "more than"
    return f"{told}, {format_usd(abs(saved))} ({abs(saved) / run.alone_usd:.0%}) {than} on-demand alone"


async def _take_down(spec: Spec, orders: Orders, fleet: Fleet, resting: Resting, clouds: frozenset[str]) -> None:
    await fleet.terminate_all("the service stops", clouds=clouds)
    if orders.all_goes(spec):
        await fleet.clear(clouds)
    if orders.everything:
        await resting.forget()


async def _after_a_hurry(orders: Orders) -> None:
    await orders.now.wait()
    await asyncio.sleep(_TERMINATE_IN_A_HURRY_S)
