"""History: what happened and why, line by line."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hedgeserve.errors import StateDirectoryError
from hedgeserve.replica import ReplicaId, ZoneId
from hedgeserve.tables.database import BUSY_TIMEOUT_S, Database, text_of


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history. ``id`` grows with time and is never used twice."""

    id: int
    at: datetime
    kind: str
    message: str
    replica: ReplicaId | None
    zone: ZoneId | None
    data: Mapping[str, Any] | None

    def document(self) -> dict[str, Any]:
        """The same, JSON-able; the shape is described in ``docs/cli.md``."""
        return {
            "id": self.id,
            "at": self.at.isoformat(timespec="milliseconds"),
            "kind": self.kind,
            "replica": self.replica,
            "zone": self.zone,
            "message": self.message,
            "data": self.data,
        }


class EventTable(Database):
    """Events are only ever added, and forgotten from the oldest on."""

    async def record_event(
        self,
        kind: str,
        message: str,
        *,
        replica: ReplicaId | None = None,
        zone: ZoneId | None = None,
        data: Mapping[str, Any] | None = None,
        at: datetime,
    ) -> int:
        """Add one line to history and return its id. What JSON does not know in ``data`` is written as text."""
        told = None if data is None else json.dumps(data, default=str)
        [[event]] = await self._run(
            "INSERT INTO events (at, kind, message, replica, zone, data) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            text_of(at), kind, message, replica, zone, told,
        )  # fmt: skip
        return int(event)

    async def events(
        self, after: int = 0, limit: int = 100, replica: ReplicaId | None = None, *, newest: bool = False
    ) -> list[Event]:
        """Up to ``limit`` events with ids above ``after``, in the order in which they happened.

        The first that there are, or with ``newest`` the last; with ``replica`` only those about it.
        """
        about = "" if replica is None else "AND replica = ?3"
        order = "DESC" if newest else "ASC"
        rows = await self._run(
            f"SELECT * FROM events WHERE id > ?1 {about} ORDER BY id {order} LIMIT ?2",
            *((after, limit) if replica is None else (after, limit, replica)),
        )
        events = [_event(row) for row in rows]
        return events[::-1] if newest else events

    async def last_boots_s(self, limit: int) -> list[float]:
        """How long the last launches took until they were ready, the oldest of them first; no drill's."""
        rows = await self._run(
            "SELECT json_extract(data, '$.phases[#-1].to_s') AS took_s FROM events WHERE kind = 'state' "
            "AND message LIKE '% → ready: %' AND json_extract(data, '$.phases[#-1].to_s') IS NOT NULL "
            "AND json_extract(data, '$.staged') IS NULL ORDER BY id DESC LIMIT ?",
            limit,
        )  # fmt: skip
        return [float(row["took_s"]) for row in rows][::-1]

    async def prune_events(self, keep: int) -> int:
        """Forget all events but the newest ``keep``; returns how many were forgotten. Their ids stay used."""
        forgotten = await self._run(
            "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?) RETURNING 1",
            keep,
        )
        return len(forgotten)


def events_in(path: Path, *, limit: int, replica: str | None = None) -> list[Event]:
    """The newest ``limit`` events of a journal, oldest first, whether or not a process has it open. Blocking.

    Raises:
        StateDirectoryError: There is no journal, or it cannot be read.
    """
    try:
        if not path.exists():
            raise StateDirectoryError(f"there is no journal {path}: no service has run with this state directory")
        uri = f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as database:
            database.row_factory = sqlite3.Row
            rows = database.execute(
                "SELECT * FROM events WHERE ?1 IS NULL OR replica = ?1 ORDER BY id DESC LIMIT ?2", (replica, limit)
            ).fetchall()
    except (sqlite3.Error, PermissionError) as error:
        raise StateDirectoryError(f"the journal {path} cannot be read: {error}") from error
    return [_event(row) for row in reversed(rows)]


def _event(row: sqlite3.Row) -> Event:
    return Event(
        id=row["id"],
        at=datetime.fromisoformat(row["at"]),
        kind=row["kind"],
        message=row["message"],
        replica=None if row["replica"] is None else ReplicaId(row["replica"]),
        zone=None if row["zone"] is None else ZoneId(row["zone"]),
        data=None if row["data"] is None else json.loads(row["data"]),
    )
