"""Versions of what replicas run, and the roll-outs that bring them in."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hedgeserve.errors import StateDirectoryError
from hedgeserve.tables.database import BUSY_TIMEOUT_S, Database, text_of, time_of

_LAST = 100


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

    def document(self) -> dict[str, Any]:
        """JSON-able; its shape is described in ``docs/cli.md``."""

        def told(at: datetime | None) -> str | None:
            return None if at is None else at.isoformat(timespec="seconds")

        return {
            "id": self.id,
            "from": self.from_version,
            "to": self.to_version,
            "strategy": self.strategy,
            "state": self.state,
            "who": self.who,
            "why": self.why,
            "began_at": told(self.began_at),
            "switched_at": told(self.switched_at),
            "ended_at": told(self.ended_at),
            "outcome": self.outcome,
        }


class VersionTable(Database):
    """Numbers are given once; the last roll-out says which version is wanted."""

    async def new_version(
        self, service: str, digest: str, content: Mapping[str, Any], *, who: str, why: str, at: datetime
    ) -> int:
        """The number of the version with this digest: its own where it is known, else the next one, from 1."""
        [[number]] = await self._run(
            "INSERT INTO versions (service, number, digest, content, made_at, who, why) "
            "SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5, ?6 FROM versions WHERE service = ?1 "
            "ON CONFLICT (service, digest) DO UPDATE SET digest = excluded.digest RETURNING number",
            service, digest, json.dumps(content, sort_keys=True), text_of(at), who, why,
        )  # fmt: skip
        return int(number)

    async def prove_version(self, service: str, number: int, *, at: datetime) -> None:
        """Write down that this version serves as it should; the first time counts."""
        await self._run(
            "UPDATE versions SET proven_at = coalesce(proven_at, ?) WHERE service = ? AND number = ?",
            text_of(at), service, number,
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
            service, old, new, strategy, state, who, why, text_of(at),
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
            state, outcome, switched_at and text_of(switched_at), ended_at and text_of(ended_at), rollout,
        )  # fmt: skip

    async def rollouts(self, service: str, limit: int = 100) -> list[StoredRollout]:
        """The last roll-outs of a service, the oldest of them first."""
        rows = await self._run("SELECT * FROM rollouts WHERE service = ? ORDER BY id DESC LIMIT ?", service, limit)
        return [_stored_rollout(row) for row in rows][::-1]

    async def prune_rollouts(self, service: str, *, keep: int) -> None:
        """Forget all roll-outs but the newest ``keep``."""
        await self._run(
            "DELETE FROM rollouts WHERE service = ?1 AND id <= "
            "(SELECT id FROM rollouts WHERE service = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            service, keep,
        )  # fmt: skip

    async def prune_versions(self, service: str, *, keep: int) -> None:
        """Forget all versions but the newest ``keep``, those that replicas run, and those of the last roll-out.

        Not while somebody holds them in memory and might want one of them again.
        """
        await self._run(
            "DELETE FROM versions WHERE service = ?1 AND number <= "
            "(SELECT number FROM versions WHERE service = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2) "
            "AND number NOT IN (SELECT version FROM replicas WHERE service = ?1 AND state != 'gone') "
            "AND NOT EXISTS (SELECT 1 FROM (SELECT from_version, to_version FROM rollouts WHERE service = ?1 "
            "ORDER BY id DESC LIMIT 1) WHERE number IN (from_version, to_version))",
            service, keep,
        )  # fmt: skip


def versions_in(path: Path) -> tuple[list[StoredVersion], list[StoredRollout], Counter[int]]:
    """The versions of a journal, its last roll-outs, the oldest first, and how many replicas run each version.

    Whether or not a process has it open. Blocking.

    Raises:
        StateDirectoryError: There is no journal, or it cannot be read.
    """
    try:
        if not path.exists():
            raise StateDirectoryError(f"there is no journal {path}: no service has run with this state directory")
        uri = f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as database:
            database.row_factory = sqlite3.Row
            database.execute("BEGIN")  # all answers of one moment
            versions = database.execute("SELECT * FROM versions ORDER BY number").fetchall()
            rollouts = database.execute("SELECT * FROM rollouts ORDER BY id DESC LIMIT ?", (_LAST,)).fetchall()
            running = database.execute("SELECT version FROM replicas WHERE state != 'gone'").fetchall()
    except (sqlite3.Error, PermissionError) as error:
        raise StateDirectoryError(f"the journal {path} cannot be read: {error}") from error
    return (
        [_stored_version(row) for row in versions],
        [_stored_rollout(row) for row in rollouts][::-1],
        Counter(row["version"] for row in running),
    )


def _stored_version(row: sqlite3.Row) -> StoredVersion:
    return StoredVersion(
        number=row["number"],
        digest=row["digest"],
        content=json.loads(row["content"]),
        made_at=datetime.fromisoformat(row["made_at"]),
        who=row["who"],
        why=row["why"],
        proven_at=time_of(row["proven_at"]),
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
        switched_at=time_of(row["switched_at"]),
        ended_at=time_of(row["ended_at"]),
        outcome=row["outcome"],
    )
