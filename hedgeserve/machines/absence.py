"""What a replica has cost while no controller ran: charged by whoever comes next, a controller or a take-down."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from hedgeserve.drivers.base import Machine, MachineState
from hedgeserve.errors import StateDirectoryError
from hedgeserve.machines.journal import Journal
from hedgeserve.replica import Replica, ReplicaId, State
from hedgeserve.tables.replicas import StoredReplica

SERVED: Final = frozenset({State.READY, State.NOTICED})


@dataclass(frozen=True, slots=True)
class Absence:
    """The time for which nobody watched a replica: so many seconds up to ``until``, and what they were for."""

    seconds: float
    until: datetime
    purpose: str


async def absence_of(journal: Journal, known: StoredReplica, *, listed: bool, lease_s: float) -> Absence:
    """The time since the ledger's last line about it, in which it was as the journal knows it.

    Where its cloud does not list it any more (``listed``), nobody knows when it went: it cannot have outlived its
    controller by more than its lease, and one that was never granted has cost nothing.
    """
    now = datetime.now(UTC)
    since = await journal.charged_until(known.id) or known.created_at
    until = now if listed else min(now, since + timedelta(seconds=lease_s))
    is_vm = listed or known.vm_id is not None
    purpose = "serving" if known.state in SERVED else "draining" if known.gone else "booting"
    return Absence(max(0.0, (until - since).total_seconds()) if is_vm else 0.0, until, purpose)


async def charge_stray(journal: Journal, machine: Machine) -> str:
    """Charge for a VM that belongs to no living replica, to now, and say what has become of its cost.

    It bears the name of the replica that it was launched for: where the journal knows that one it knows the price,
    and up to when it is charged. One that had stopped by itself has cost nobody knows what.
    """
    untold = (
        f"what it has cost since its launch at {machine.launched_at:%Y-%m-%d %H:%M:%S} UTC is not in the ledger"
    )
    if machine.state is MachineState.STOPPED:
        return untold
    try:
        known = await journal.known(ReplicaId(machine.name))
        if known is None:
            return untold
        since = max(await journal.charged_until(known.id) or machine.launched_at, machine.launched_at)
        last_price = await journal.last_price(known.id)
    except StateDirectoryError:
        return untold
    price = known.offer.usd_per_hour if last_price is None else last_price
    seconds = max(0.0, (datetime.now(UTC) - since).total_seconds())
    replica = Replica(known.id, known.offer, State.GONE, 0.0, known.created_at, vm_id=machine.id)
    if not await journal.charge(replica, seconds, price, "draining" if known.served else "booting"):
        return untold
    return f"{seconds * price / 3600:.4f} USD that were not in the ledger are charged for it"
