"""The journal: what was intended, what happened and what it cost, in one SQLite file that survives ``kill -9``.

Every method is one SQL statement in autocommit mode, run in the connection's own thread. So it is whole or not
there at all, also when its caller is cancelled half-way or the process is killed; no transaction is ever open
between two awaits. ``synchronous = FULL`` makes each commit reach the disk before the method returns: an intent
must be there before a cloud is asked. Nothing secret is stored.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiosqlite

from hedgeserve.errors import StateDirectoryError
from hedgeserve.migrations import MIGRATIONS
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId

_BUSY_TIMEOUT_S = 5.0
"""How long to wait for somebody who reads or copies the file with another tool."""

_WAL_BYTES = 16 * 2**20
"""What the write-ahead log may keep of the disk once its content is in the main file."""


@dataclass(frozen=True, slots=True)
class StoredReplica:
    """A replica as the journal last knew it. Times are UTC; ``noticed`` says whether it had a notice, ever."""

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


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of what replicas run; ``content`` holds no secret."""

    number: int
    digest: str
    content: Mapping[str, Any]
    made_at: datetime
    who: str
    why: str
    proven_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """One roll-out: which version was to take the place of which, and what became of it."""

    id: int
    from_version: int
    to_version: int
    strategy: str
    state: str
    who: str
    why: str
    began_at: datetime
    switched_at: datetime | None
    ended_at: datetime | None
    outcome: str


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


def vms_in(path: Path, service: str) -> dict[str, str | None] | None:
    """The VM of each replica of a service that a journal holds as not gone; None where it never had the service.

    Only reads, so that it may be asked while another process writes it.

    Raises:
        StateDirectoryError: It cannot be read.
    """
    if not path.exists():
        return None
    try:
        uri = f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as database:
            database.execute("BEGIN")  # both answers of one moment
            if database.execute("SELECT 1 FROM services WHERE name = ?", (service,)).fetchone() is None:
                return None
            found = database.execute(
                "SELECT id, vm_id FROM replicas WHERE service = ? AND state != 'gone'", (service,)
            ).fetchall()
    except sqlite3.Error as error:
        raise StateDirectoryError(f"the journal {path} cannot be read: {error}") from error
    return {str(replica): vm_id for replica, vm_id in found}


class Store:
    """The open journal. Each method commits before it returns.

    A disk that is full, or a file that has become unreadable, raises
    :class:`~hedgeserve.errors.StateDirectoryError` from any method and changes nothing.
    """

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the journal, make it where it is missing, and bring it to today's format.

        Raises:
            StateDirectoryError: It cannot be read or written, is damaged, or was written by a newer HedgeServe.
        """
        # All that can go wrong with the file goes wrong here, before the connection's thread exists.
        await asyncio.to_thread(_bring_up_to_date, path)
        connection = await aiosqlite.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        store = cls(path, connection)
        try:
            connection.row_factory = sqlite3.Row
            await store._run("PRAGMA synchronous = FULL")
            await store._run("PRAGMA foreign_keys = ON")
            await store._run(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        except BaseException:
            await connection.close()
            raise
        return store

    async def close(self) -> None:
        """Close the file; what was committed is in it."""
        await self._connection.close()

    async def acquire_lease(self, owner: str) -> int:
        """Make ``owner`` the owner of this state; the generation it returns is higher than any before it."""
        [[generation]] = await self._run(
            "INSERT INTO lease (only, owner, generation) VALUES (1, ?, 1) "
            "ON CONFLICT DO UPDATE SET owner = excluded.owner, generation = generation + 1 RETURNING generation",
            owner,
        )
        return int(generation)

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
                offer.zone, offer.instance_type, offer.market, offer.usd_per_hour, _text(offer.read_at),
                token, State.PLANNED, _text(now), _text(now), reason, version, service,
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
            replica.state, _text(at), replica.why, replica.vm_id, replica.url,
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
            _text(at), kind, message, replica, zone, told,
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

    async def prune_events(self, keep: int) -> int:
        """Forget all events but the newest ``keep``; returns how many were forgotten. Their ids stay used."""
        forgotten = await self._run(
            "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?) RETURNING 1",
            keep,
        )
        return len(forgotten)

    async def charge(
        self, replica: ReplicaId, seconds: float, usd_per_hour: float, purpose: str, at: datetime
    ) -> None:
        """Add to the ledger: this replica ran for so many seconds, up to ``at``, at this price.

        Raises:
            LookupError: The journal knows no such replica.
        """
        try:
            await self._run(
                "INSERT INTO ledger (at, replica, seconds, usd_per_hour, purpose) VALUES (?, ?, ?, ?, ?)",
                _text(at), replica, float(seconds), float(usd_per_hour), purpose,
            )  # fmt: skip
        except sqlite3.IntegrityError as error:
            raise LookupError(f"the journal {self._path} knows no replica {replica}") from error

    async def charged_until(self, replica: ReplicaId) -> datetime | None:
        """The time up to which this replica has been charged for; None where it never was."""
        [[at]] = await self._run("SELECT max(at) FROM ledger WHERE replica = ?", replica)
        return datetime.fromisoformat(at) if at else None

    async def spent_usd(self, since: datetime | None = None) -> float:
        """US dollars charged, in all or at and after a time."""
        [[usd]] = await self._run(
            "SELECT total(seconds * usd_per_hour) / 3600 FROM ledger WHERE at >= ?",
            "" if since is None else _text(since),
        )
        return float(usd)

    async def add_baseline(self, seconds: float, usd_per_hour: float | None, at: datetime) -> None:
        """Add to the hour (UTC) of ``at``: for so many seconds up to it, on demand alone would have cost this.

        None: nobody knows what.
        """
        await self._run(
            "INSERT INTO baseline (hour, seconds, usd, unpriced_s, until, usd_per_hour) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds, usd = usd + excluded.usd, "
            "unpriced_s = unpriced_s + excluded.unpriced_s, until = excluded.until, "
            "usd_per_hour = excluded.usd_per_hour",
            _text(at)[:13], seconds, seconds * (usd_per_hour or 0.0) / 3600,
            seconds if usd_per_hour is None else 0.0, _text(at), usd_per_hour,
        )  # fmt: skip

    async def last_baseline(self) -> tuple[datetime, float | None] | None:
        """Up to when on demand alone has been counted, and its USD per hour then; None: it never was."""
        rows = await self._run("SELECT until, usd_per_hour FROM baseline ORDER BY hour DESC LIMIT 1")
        return (datetime.fromisoformat(rows[0][0]), rows[0][1]) if rows else None

    async def baseline_usd(self, since: datetime) -> float:
        """What on demand alone would have cost since this hour (UTC), as far as prices were known."""
        [[usd]] = await self._run("SELECT total(usd) FROM baseline WHERE hour >= ?", _text(since)[:13])
        return float(usd)

    async def save_pause(
        self, service: str, *, since: datetime, until: datetime | None, drain_s: float | None
    ) -> None:
        """Remember that a service is paused, in the place of what was remembered before."""
        await self._run(
            "INSERT INTO pauses (service, since, until, drain_s) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET since = excluded.since, until = excluded.until, drain_s = excluded.drain_s",
            service, _text(since), None if until is None else _text(until), drain_s,
        )  # fmt: skip

    async def load_pause(self, service: str) -> tuple[datetime, datetime | None, float | None] | None:
        """Since when, until when and with what time to drain a service is paused; None where it is not."""
        rows = await self._run("SELECT since, until, drain_s FROM pauses WHERE service = ?", service)
        if not rows:
            return None
        [[since, until, drain_s]] = rows
        return datetime.fromisoformat(since), None if until is None else datetime.fromisoformat(until), drain_s

    async def end_pause(self, service: str) -> None:
        """Forget that a service is paused; nothing happens where it is not."""
        await self._run("DELETE FROM pauses WHERE service = ?", service)

    async def save_memory(
        self, policy_name: str, memory: Mapping[str, Any], *, at: datetime | None = None
    ) -> None:
        """Keep what a policy has learnt, in the place of what was kept for it before."""
        await self._run(
            "INSERT INTO zones (policy, memory, saved_at) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET memory = excluded.memory, saved_at = excluded.saved_at",
            policy_name, json.dumps(memory), _text(at or datetime.now(UTC)),
        )  # fmt: skip

    async def load_memory(self, policy_name: str) -> dict[str, Any] | None:
        """What :meth:`save_memory` kept last under this name; the ages in it are as of :meth:`memory_saved_at`."""
        rows = await self._run("SELECT memory FROM zones WHERE policy = ?", policy_name)
        return dict(json.loads(rows[0][0])) if rows else None

    async def memory_saved_at(self, policy_name: str) -> datetime | None:
        """When the memory that :meth:`load_memory` returns was kept."""
        rows = await self._run("SELECT saved_at FROM zones WHERE policy = ?", policy_name)
        return datetime.fromisoformat(rows[0][0]) if rows else None

    async def save_sample(self, width_s: int, start_s: int, data: str) -> None:
        """Keep what was seen in one slot of time; of two for the same slot the later one."""
        await self._run("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", width_s, start_s, data)

    async def samples(self, width_s: int, *, since_s: int) -> list[tuple[int, str]]:
        """The slots of this width that begin at or after a time (Unix seconds), each with its start, in order."""
        rows = await self._run(
            "SELECT start_s, data FROM samples WHERE width_s = ? AND start_s >= ? ORDER BY start_s",
            width_s, since_s,
        )  # fmt: skip
        return [(row["start_s"], row["data"]) for row in rows]

    async def prune_samples(self, width_s: int, *, before_s: int) -> None:
        """Forget the slots of this width that begin before a time (Unix seconds)."""
        await self._run("DELETE FROM samples WHERE width_s = ? AND start_s < ?", width_s, before_s)

    async def new_version(
        self, service: str, digest: str, content: Mapping[str, Any], *, who: str, why: str, at: datetime
    ) -> int:
        """The number of the version with this digest: its own where it is known, else the next one, from 1."""
        [[number]] = await self._run(
            "INSERT INTO versions (service, number, digest, content, made_at, who, why) "
            "SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5, ?6 FROM versions WHERE service = ?1 "
            "ON CONFLICT (service, digest) DO UPDATE SET digest = excluded.digest RETURNING number",
            service, digest, json.dumps(content, sort_keys=True), _text(at), who, why,
        )  # fmt: skip
        return int(number)

    async def prove_version(self, service: str, number: int, *, at: datetime) -> None:
        """Write down that this version serves as it should; the first time counts."""
        await self._run(
            "UPDATE versions SET proven_at = coalesce(proven_at, ?) WHERE service = ? AND number = ?",
            _text(at), service, number,
        )  # fmt: skip

    async def versions(self, service: str) -> list[StoredVersion]:
        """All versions of a service, the oldest first."""
        rows = await self._run("SELECT * FROM versions WHERE service = ? ORDER BY number", service)
        return [_stored_version(row) for row in rows]

    async def begin_rollout(
        self, service: str, *, old: int, new: int, strategy: str, state: str, who: str, why: str, at: datetime
    ) -> int:
        """Write down that version ``new`` is to take the place of ``old``; from then on it is the one wanted."""
        [[rollout]] = await self._run(
            "INSERT INTO rollouts (service, from_version, to_version, strategy, state, who, why, began_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            service, old, new, strategy, state, who, why, _text(at),
        )  # fmt: skip
        return int(rollout)

    async def save_rollout(
        self,
        rollout: int,
        state: str,
        *,
        outcome: str = "",
        switched_at: datetime | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        """Write down how far it has come; times and outcome, once said, stay."""
        await self._run(
            "UPDATE rollouts SET state = ?1, outcome = CASE ?2 WHEN '' THEN outcome ELSE ?2 END, "
            "switched_at = coalesce(switched_at, ?3), ended_at = coalesce(ended_at, ?4) WHERE id = ?5",
            state, outcome, switched_at and _text(switched_at), ended_at and _text(ended_at), rollout,
        )  # fmt: skip

    async def rollouts(self, service: str, limit: int = 100) -> list[StoredRollout]:
        """The last roll-outs of a service, the oldest of them first."""
        rows = await self._run("SELECT * FROM rollouts WHERE service = ? ORDER BY id DESC LIMIT ?", service, limit)
        return [_stored_rollout(row) for row in rows][::-1]

    async def _run(self, sql: str, *values: object) -> Sequence[sqlite3.Row]:
        """One statement and all of its rows, committed; an ``IntegrityError`` is the caller's to explain."""
        try:
            return list(await self._connection.execute_fetchall(sql, values))
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise _explained(error, self._path) from error


def _bring_up_to_date(path: Path) -> None:
    """Make, check and migrate the file; blocking.

    Raises:
        StateDirectoryError: As :meth:`Store.open`.
    """
    try:
        # Only for its owner, whatever the directory and the umask allow; what SQLite puts beside it has its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError:
        pass  # SQLite says better what is wrong with it
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as database:
            # The format is looked at first: a file of a newer version must be left as it is.
            [version] = database.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise StateDirectoryError(
                    f"the journal {path} has format {version}, written by a newer HedgeServe; this one knows "
                    f"formats up to {len(MIGRATIONS)}; install the newer version again, or set "
                    "service.state_dir to another directory"
                )
            [verdict] = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _damaged(path, " ".join(str(verdict).split()))
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
                database.executescript(f"BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {number}; COMMIT;")
    except sqlite3.Error as error:
        raise _explained(error, path) from error


def _text(at: datetime) -> str:
    """A time as UTC text of one fixed length, so that text order is time order."""
    if at.tzinfo is None:
        raise ValueError(f"{at} has no time zone; the journal's times are UTC")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


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
    )


def _stored_version(row: sqlite3.Row) -> StoredVersion:
    return StoredVersion(
        number=row["number"],
        digest=row["digest"],
        content=json.loads(row["content"]),
        made_at=datetime.fromisoformat(row["made_at"]),
        who=row["who"],
        why=row["why"],
        proven_at=_time(row["proven_at"]),
    )


def _stored_rollout(row: sqlite3.Row) -> StoredRollout:
    return StoredRollout(
        id=row["id"],
        from_version=row["from_version"],
        to_version=row["to_version"],
        strategy=row["strategy"],
        state=row["state"],
        who=row["who"],
        why=row["why"],
        began_at=datetime.fromisoformat(row["began_at"]),
        switched_at=_time(row["switched_at"]),
        ended_at=_time(row["ended_at"]),
        outcome=row["outcome"],
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


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


def _damaged(path: Path, detail: str) -> StateDirectoryError:
    return StateDirectoryError(
        f"the journal {path} is damaged ({detail}); move it and its -wal and -shm files away and start again: "
        "running VMs are found in the clouds' own lists, only the history is lost"
    )


def _explained(error: sqlite3.Error, path: Path) -> StateDirectoryError:
    """SQLite's refusal as a sentence with a next step, by its primary result code (https://sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(error))
    advice = {
        sqlite3.SQLITE_FULL: "free some space on its disk",
        sqlite3.SQLITE_READONLY: "make it and its directory writable for this user",
        sqlite3.SQLITE_CANTOPEN: "make it and its directory readable and writable for this user",
        sqlite3.SQLITE_PERM: "make it and its directory readable and writable for this user",
        sqlite3.SQLITE_IOERR: "look at the disk (`dmesg` may say more)",
        sqlite3.SQLITE_BUSY: "close the other program that has it open",
        sqlite3.SQLITE_LOCKED: "close the other program that has it open",
    }.get(code, "keep the file and report this")
    return StateDirectoryError(f"the journal {path} cannot be used: {error}; {advice}")
