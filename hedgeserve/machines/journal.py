"""What happened and why, written down once for all readers: the store's event table and the log.

A full disk must not stop a service that is serving: what cannot be written is logged, whoever watches the store's
disk says so (the status shows it), and the fleet goes on from memory. Only an *intent* must be on disk before a
cloud is asked; :meth:`Journal.intend` therefore lets the error through.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog

from hedgeserve.errors import StateDirectoryError
from hedgeserve.policy.ledger import days_of
from hedgeserve.redaction import redact
from hedgeserve.replica import Offer, Replica, ReplicaId, ZoneId
from hedgeserve.store import Store
from hedgeserve.tables.replicas import StoredReplica


class EventKind(StrEnum):
    """What an event is about; closed, so that events can be counted, filtered and documented."""

    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    PAUSED = "paused"
    RESUMED = "resumed"
    ASLEEP = "asleep"
    AWAKE = "awake"
    BUDGET = "budget"
    SCALED = "scaled"
    LAUNCH = "launch"
    REFUSED = "refused"
    STATE = "state"
    NOTICE = "notice"
    REBALANCE = "rebalance"
    GONE = "gone"
    ADOPTED = "adopted"
    REAPED = "reaped"
    CLEARED = "cleared"
    DRILL = "drill"
    APPLIED = "applied"
    UPDATE = "update"
    NOTE = "note"
    TROUBLE = "trouble"


_RECENT = 12
_LONGEST_MESSAGE = 4000
_TROUBLES = frozenset(
    {
        EventKind.REFUSED,
        EventKind.NOTICE,
        EventKind.TROUBLE,
        EventKind.REAPED,
        EventKind.DRILL,
        EventKind.BUDGET,
    }
)


class Journal:
    """Records transitions and events; never blocks the loop, never raises for a full disk but on an intent.

    :attr:`recent` are the last few events, as the status shows them; :attr:`heard` is called after each event,
    :attr:`paid` after each line of the ledger, with the time up to which it goes and its US dollars.
    """

    def __init__(self, store: Store, service: str) -> None:
        self._store = store
        self._service = service
        self._log = structlog.get_logger("hedgeserve.fleet").bind(service=service)
        self._failing = False
        self.heard: Callable[[], None] = lambda: None
        self.paid: Callable[[datetime, float], None] = lambda at, usd: None
        self.recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self.charging = asyncio.Lock()
        """Held by who charges, and by who adds up what is charged and what is not yet."""

    async def intend(self, offer: Offer, token: str, reason: str, version: int = 1) -> ReplicaId:
        """Commit the intent to launch this version on this offer and return the new replica's id.

        Raises:
            StateDirectoryError: It could not be written, so no cloud may be asked.
        """
        return await self._store.new_replica(
            self._service, offer=offer, token=token, reason=reason, now=datetime.now(UTC), version=version
        )

    async def save(self, replica: Replica) -> None:
        """Write a replica's present state."""
        await self._write(self._store.save(replica, at=datetime.now(UTC)))

    async def event(
        self,
        kind: EventKind,
        message: str,
        *,
        replica: ReplicaId | None = None,
        zone: ZoneId | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Record one event, in the log always and in the store where it can be written; without secrets."""
        message = redact(message)
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]}… ({len(message)} characters)"
        level = self._log.warning if kind in _TROUBLES else self._log.info
        at = datetime.now(UTC)
        self.recent.append(
            {
                "at": at.isoformat(timespec="seconds"),
                "kind": str(kind),
                "replica": replica,
                "zone": zone,
                "message": message,
            }
        )
        told = {key: value for key, value in (("replica", replica), ("zone", zone)) if value is not None}
        plain = {key: value for key, value in (data or {}).items() if not isinstance(value, list)}
        level(message, event_kind=str(kind), **told, **plain)
        await self._write(self._store.record_event(kind, message, replica=replica, zone=zone, data=data, at=at))
        self.heard()

    async def last_boots_s(self, limit: int) -> list[float]:
        """How long the last launches took until they were ready; none where the store cannot be read."""
        try:
            return await self._store.last_boots_s(limit)
        except StateDirectoryError:
            return []

    async def charged_until(self, replica: ReplicaId) -> datetime | None:
        """The time up to which the ledger holds what this replica has cost; None: it holds nothing of it."""
        return await self._store.charged_until(replica)

    async def known(self, replica: ReplicaId) -> StoredReplica | None:
        """A replica of this service, whether or not it is gone; None where there never was one of this id."""
        return await self._store.known_replica(self._service, replica)

    async def last_price(self, replica: ReplicaId) -> float | None:
        """US dollars an hour that this replica was charged at last; None where no line tells it any more."""
        return await self._store.last_price(replica)

    async def charge(
        self,
        replica: Replica,
        seconds: float,
        usd_per_hour: float,
        purpose: str,
        *,
        until: datetime | None = None,
    ) -> bool:
        """Add the seconds up to now, or to ``until``, at this price, to the ledger, cut at midnight (UTC).

        Returns whether all of it is on disk; where it is not, none of the rest is, and it can be charged later.
        """
        end = datetime.now(UTC) if until is None else until
        for at, part_s in days_of(end - timedelta(seconds=seconds), end):
            charging = self._store.charge(
                replica.id, seconds=part_s, usd_per_hour=usd_per_hour, purpose=purpose, at=at
            )
            if not await self._write(charging):
                return False
            self.paid(at, part_s * usd_per_hour / 3600)
        return True

    async def _write(self, writing: Awaitable[object]) -> bool:
        """Whether it could be written."""
        try:
            await writing
        except StateDirectoryError as error:
            if not self._failing:
                self._log.error("the journal cannot be written; all goes on from memory", error=str(error))
            self._failing = True
            return False
        self._failing = False
        return True
