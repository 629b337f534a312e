"""What a replica has cost while no controller ran: charged by whoever comes next, a controller or a take-down."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from hedgeserve.machines.journal import Journal
from hedgeserve.replica import State
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
