"""Pauses that persons have asked for."""

from datetime import datetime

from hedgeserve.tables.database import Database, text_of


class PauseTable(Database):
    """One row a service, while its pause holds."""

    async def save_pause(
        self, service: str, *, since: datetime, until: datetime | None, drain_s: float | None
    ) -> None:
        """Remember that a service is paused, in the place of what was remembered before."""
        await self._run(
            "INSERT INTO pauses (service, since, until, drain_s) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET since = excluded.since, until = excluded.until, drain_s = excluded.drain_s",
            service, text_of(since), None if until is None else text_of(until), drain_s,
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
