"""What policies have learnt of their zones."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hedgeserve.tables.database import Database, text_of


class MemoryTable(Database):
    """One row a policy."""

    async def save_memory(
        self, policy_name: str, memory: Mapping[str, Any], *, at: datetime | None = None
    ) -> None:
        """Keep what a policy has learnt, in the place of what was kept for it before."""
        await self._run(
            "INSERT INTO zones (policy, memory, saved_at) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET memory = excluded.memory, saved_at = excluded.saved_at",
            policy_name, json.dumps(memory), text_of(at or datetime.now(UTC)),
        )  # fmt: skip

    async def load_memory(self, policy_name: str) -> dict[str, Any] | None:
        """What :meth:`save_memory` kept last under this name; the ages in it are as of :meth:`memory_saved_at`."""
        rows = await self._run("SELECT memory FROM zones WHERE policy = ?", policy_name)
        return dict(json.loads(rows[0][0])) if rows else None

    async def memory_saved_at(self, policy_name: str) -> datetime | None:
        """When the memory that :meth:`load_memory` returns was kept."""
        rows = await self._run("SELECT saved_at FROM zones WHERE policy = ?", policy_name)
        return datetime.fromisoformat(rows[0][0]) if rows else None
