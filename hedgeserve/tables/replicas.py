"""Replicas as the journal knows them: intents, states and ends, and ids that are never given twice."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.tables.database import Database, text_of

_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class StoredReplica:
    """A replica as the journal last knew it. Times are UTC.

    ``noticed`` says whether it had a notice, ever; ``served`` whether the ledger knows of a time that it served.
    """

    id: ReplicaId
    service: str
    offer: Offer
    token: str
    state: State
    state_since: datetime
    created_at: datetime
    why: str
    vm_id: str | None
    url: str | None
    noticed: bool
    gone: GoneReason | None
    version: int = 1
    served: bool = False


class ReplicaTable(Database):
    """One row for each launch that was ever intended, until it is long gone."""

    async def new_replica(
        self, service: str, offer: Offer, token: str, reason: str, now: datetime, version: int = 1
    ) -> ReplicaId:
        """Write down the intent to launch, in state ``planned``, and return the id that belongs to it alone.

        ``version`` is the one that it will run.

        Raises:
            ValueError: The token has been used before: one token is one VM.
        """
        await self._run("INSERT INTO services (name) VALUES (?) ON CONFLICT DO NOTHING", service)
        try:
            [[replica]] = await self._run(
                "INSERT INTO replicas (id, service, number, zone, instance_type, market, usd_per_hour, "
                "price_read_at, token, state, state_since, created_at, why, version) "
                "SELECT name || '-' || (last_number + 1), name, last_number + 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "
                "FROM services WHERE name = ? RETURNING id",
                offer.zone, offer.instance_type, offer.market, offer.usd_per_hour, text_of(offer.read_at),
                token, State.PLANNED, text_of(now), text_of(now), reason, version, service,
            )  # fmt: skip
        except sqlite3.IntegrityError as error:
            raise ValueError(f"the token {token!r} belongs to another replica of this journal") from error
        return ReplicaId(replica)

    async def save(self, replica: Replica, *, at: datetime) -> None:
        """Write a replica's present state; ``at`` becomes its ``state_since`` if the state is a new one.

        Raises:
            LookupError: The journal knows no such replica.
        """
        saved = await self._run(
            "UPDATE replicas SET state_since = CASE state WHEN ?1 THEN state_since ELSE ?2 END, "
            "state = ?1, why = ?3, vm_id = ?4, url = ?5, noticed = ?6, gone = ?7 WHERE id = ?8 RETURNING id",
            replica.state, text_of(at), replica.why, replica.vm_id, replica.url,
            replica.notice is not None, replica.gone, replica.id,
        )  # fmt: skip
        if not saved:
            raise LookupError(f"the journal {self._path} knows no replica {replica.id}")

    async def alive_replicas(self, service: str) -> list[StoredReplica]:
        """All replicas of a service that are not gone, the oldest first."""
        rows = await self._run(
            "SELECT * FROM replicas WHERE service = ? AND state != 'gone' ORDER BY number", service
        )
        return [_stored_replica(row) for row in rows]

    async def known_replica(self, service: str, replica: ReplicaId) -> StoredReplica | None:
        """A replica of this service, whether or not it is gone; None where there never was one of this id."""
        rows = await self._run("SELECT * FROM replicas WHERE service = ? AND id = ?", service, replica)
        return _stored_replica(rows[0]) if rows else None

    async def last_replicas(self, service: str, limit: int = 50) -> list[ReplicaId]:
        """The ids that were given last, the newest first."""
        rows = await self._run(
            "SELECT id FROM replicas WHERE service = ? ORDER BY number DESC LIMIT ?", service, limit
        )
        return [ReplicaId(row[0]) for row in rows]

    async def prune_replicas(self, service: str, *, keep: int) -> int:
        """Forget those that are gone, all but the newest ``keep`` of them; how many, 0: none is left.

        One that a line or an hour of the ledger is about stays.
        """
        gone = await self._run(
            "DELETE FROM replicas WHERE id IN (SELECT id FROM replicas AS one "
            "WHERE service = ?1 AND state = 'gone' AND number <= (SELECT number FROM replicas "
            "WHERE service = ?1 AND state = 'gone' ORDER BY number DESC LIMIT 1 OFFSET ?2) "
            "AND NOT EXISTS (SELECT 1 FROM ledger WHERE replica = one.id) "
            "AND NOT EXISTS (SELECT 1 FROM ledger_hours WHERE replica = one.id) LIMIT ?3) RETURNING 1",
            service, keep, _CHUNK,
        )  # fmt: skip
        return len(gone)


def _stored_replica(row: sqlite3.Row) -> StoredReplica:
    return StoredReplica(
        id=ReplicaId(row["id"]),
        service=row["service"],
        offer=Offer(
            zone=ZoneId(row["zone"]),
            instance_type=row["instance_type"],
            market=Market(row["market"]),
            usd_per_hour=row["usd_per_hour"],
            read_at=datetime.fromisoformat(row["price_read_at"]),
        ),
        token=row["token"],
        state=State(row["state"]),
        state_since=datetime.fromisoformat(row["state_since"]),
        created_at=datetime.fromisoformat(row["created_at"]),
        why=row["why"],
        vm_id=row["vm_id"],
        url=row["url"],
        noticed=bool(row["noticed"]),
        gone=None if row["gone"] is None else GoneReason(row["gone"]),
        version=row["version"],
        served=bool(row["served"]),
    )
