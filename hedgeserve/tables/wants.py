"""What services wanted when they were last seen."""

from dataclasses import dataclass
from datetime import datetime

from hedgeserve.tables.database import Database, text_of, time_of


@dataclass(frozen=True, slots=True)
class StoredWant:
    """How many replicas were wanted ``at`` this time, and for whom.

    ``busy_at``: when a request was last there. ``awake_until``: the end of being woken in hours of sleep, None: it
    was not; ``woken_by`` says by whom.
    """

    target: int
    busy_at: datetime
    awake_until: datetime | None
    woken_by: str
    at: datetime


class WantTable(Database):
    """One row a service."""

    async def save_want(self, service: str, want: StoredWant) -> None:
        """Keep this in the place of what was kept before."""
        await self._run(
            "INSERT INTO wants (service, target, busy_at, awake_until, woken_by, at) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET target = excluded.target, busy_at = excluded.busy_at, "
            "awake_until = excluded.awake_until, woken_by = excluded.woken_by, at = excluded.at",
            service, want.target, text_of(want.busy_at), want.awake_until and text_of(want.awake_until),
            want.woken_by, text_of(want.at),
        )  # fmt: skip

    async def forget_want(self, service: str) -> None:
        """Forget it; nothing happens where nothing was kept."""
        await self._run("DELETE FROM wants WHERE service = ?", service)

    async def load_want(self, service: str) -> StoredWant | None:
        """What was kept last; None: nothing ever was."""
        rows = await self._run(
            "SELECT target, busy_at, awake_until, woken_by, at FROM wants WHERE service = ?", service
        )
        if not rows:
            return None
        [[target, busy_at, awake_until, woken_by, at]] = rows
        busy = datetime.fromisoformat(busy_at)
        return StoredWant(target, busy, time_of(awake_until), woken_by, datetime.fromisoformat(at))
