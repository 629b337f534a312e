"""Replicas of an earlier run of the controller: what is left of each, and what the time since has cost."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from hedgeserve.drivers.base import Machine
from hedgeserve.drivers.tags import OWNER, is_foreign
from hedgeserve.errors import CloudError
from hedgeserve.hedge import price_now
from hedgeserve.machines.absence import SERVED, Absence, absence_of
from hedgeserve.machines.hands import Hands, Past
from hedgeserve.machines.journal import EventKind
from hedgeserve.machines.offerings import Offerings
from hedgeserve.replica import GoneReason, Market, Replica, State
from hedgeserve.spec import Spec
from hedgeserve.tables.replicas import StoredReplica


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
        absence = await absence_of(self._hands.journal, known, listed=machine is not None, lease_s=self._lease_s)
        is_charged = await self._charge(replica, absence)
        if machine is None and not leaving:
            await self._bury(replica)
            return None
        past = Past(
            age_s=max(0.0, (datetime.now(UTC) - known.created_at).total_seconds()),
            unbilled_s=0.0 if is_charged else absence.seconds,
            served=known.served or known.state in SERVED,
            noticed=known.noticed,
        )
        return replica, past

    async def _bury(self, replica: Replica) -> None:
        journal = self._hands.journal
        reason = GoneReason.PREEMPTED if replica.vm_id and replica.market is Market.SPOT else GoneReason.FAILED
        why = "its VM was gone when the controller came back"
        replica = replica.to(State.GONE, now_s=asyncio.get_running_loop().time(), why=why, gone=reason)
        await journal.save(replica)
        self._hands.metrics.gone(replica.market, reason)
        await journal.event(EventKind.GONE, why, replica=replica.id, zone=replica.zone)
        await self._hands.keys.forget(replica.id)

    async def _charge(self, replica: Replica, absence: Absence) -> bool:
        """Charge for the time that nobody watched it; whether that is on disk."""
        price = price_now(replica.offer, self._offerings.all())
        written = await self._hands.journal.charge(
            replica, absence.seconds, price, absence.purpose, until=absence.until
        )
        if written:
            self._hands.metrics.spent(replica.market, absence.purpose, absence.seconds * price / 3600)
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
