"""Replicas of an earlier run of the controller: what is left of each, and what the time since has cost."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from hedgeserve.drivers.base import Machine
from hedgeserve.drivers.tags import OWNER, is_foreign
from hedgeserve.errors import CloudError
from hedgeserve.hedge import price_now
from hedgeserve.machines.hands import Hands, Past
from hedgeserve.machines.journal import EventKind
from hedgeserve.machines.offerings import Offerings
from hedgeserve.replica import GoneReason, Market, Replica, State
from hedgeserve.spec import Spec
from hedgeserve.tables.replicas import StoredReplica

SERVED: Final = frozenset({State.READY, State.NOTICED})


class Adoption:
    """Judges at the start what the journal knows by what its cloud lists."""

    def __init__(self, spec: Spec, hands: Hands, offerings: Offerings) -> None:
        self._lease_s, self._hands, self._offerings = spec.timeouts.lease, hands, offerings

    async def judge(self, known: StoredReplica, machine: Machine | None) -> tuple[Replica, Past] | None:
        """The replica as it goes on, and its past; None where nothing is left of it, which the journal then says.

        ``machine`` is what its cloud lists of it, None: nothing.
        """
        leaving = known.state in (State.DRAINING, State.TERMINATING)
        replica = Replica(
            id=known.id,
            offer=self._offerings.compared(known.offer),
            state=State.TERMINATING if leaving or machine is None else State.BOOTING,
            since_s=asyncio.get_running_loop().time(),
            created_at=known.created_at,
            why=known.why if leaving else "adopted after a restart of the controller",
            vm_id=machine.id if machine is not None else known.vm_id,
            gone=known.gone,
            version=known.version,
        )
        unbilled_s = await self._hands.journal.unbilled_s(known.id, known.created_at)
        if machine is None and not leaving:
            await self._bury(known, replica, unbilled_s)
            return None
        if machine is not None and await self._bill_absence(known, replica, seconds=unbilled_s):
            unbilled_s = 0.0
        past = Past(
            age_s=max(0.0, (datetime.now(UTC) - known.created_at).total_seconds()),
            unbilled_s=unbilled_s,
            served=known.state in SERVED,
            noticed=known.noticed,
        )
        return replica, past

    async def _bury(self, known: StoredReplica, replica: Replica, unbilled_s: float) -> None:
        journal = self._hands.journal
        reason = GoneReason.PREEMPTED if known.vm_id and replica.market is Market.SPOT else GoneReason.FAILED
        if known.vm_id is not None:
            # It cannot have outlived its controller by more than its lease.
            await self._bill_absence(known, replica, seconds=min(unbilled_s, self._lease_s))
        why = "its VM was gone when the controller came back"
        replica = replica.to(State.GONE, now_s=asyncio.get_running_loop().time(), why=why, gone=reason)
        await journal.save(replica)
        self._hands.metrics.gone(replica.market, reason)
        await journal.event(EventKind.GONE, why, replica=replica.id, zone=replica.zone)
        await self._hands.keys.forget(replica.id)

    async def _bill_absence(self, known: StoredReplica, replica: Replica, *, seconds: float) -> bool:
        """Charge for the time that nobody watched this replica, in which it was as the journal knew it."""
        purpose = "serving" if known.state in SERVED else "draining" if known.gone else "booting"
        price = price_now(replica.offer, self._offerings.all())
        if written := await self._hands.journal.charge(replica, seconds, price, purpose):
            self._hands.metrics.spent(replica.market, purpose, seconds * price / 3600)
        return written


def refuse_foreign(service: str, listed: Sequence[Machine], controller: str) -> None:
    """Two controllers with one service name would end each other's VMs; whose is whose, the tags tell.

    Raises:
        CloudError: There are VMs of another one; says whose, and what to do.
    """
    foreign = [machine for machine in listed if is_foreign(machine.tags, controller)]
    if foreign:
        names = ", ".join(
            f"{machine.id} (from {machine.tags.get(OWNER, 'an unknown host')})" for machine in foreign
        )
        raise CloudError(
            f'another controller, or one whose state directory is lost, has VMs of a service named "{service}": '
            f"{names}. Give this service another name (service.name), or remove what nobody needs with "
            "`hedgeserve orphans`"
        )
