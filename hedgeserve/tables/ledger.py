"""The ledger: what VMs have cost, and what on demand alone would have."""

import sqlite3
from datetime import datetime

from hedgeserve.replica import ReplicaId
from hedgeserve.tables.database import Database, text_of


class LedgerTable(Database):
    """Seconds and prices of each replica, and the baseline by the hour."""

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
                text_of(at), replica, float(seconds), float(usd_per_hour), purpose,
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
            "" if since is None else text_of(since),
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
            text_of(at)[:13], seconds, seconds * (usd_per_hour or 0.0) / 3600,
            seconds if usd_per_hour is None else 0.0, text_of(at), usd_per_hour,
        )  # fmt: skip

    async def last_baseline(self) -> tuple[datetime, float | None] | None:
        """Up to when on demand alone has been counted, and its USD per hour then; None: it never was."""
        rows = await self._run("SELECT until, usd_per_hour FROM baseline ORDER BY hour DESC LIMIT 1")
        return (datetime.fromisoformat(rows[0][0]), rows[0][1]) if rows else None

    async def baseline_usd(self, since: datetime) -> float:
        """What on demand alone would have cost since this hour (UTC), as far as prices were known."""
        [[usd]] = await self._run("SELECT total(usd) FROM baseline WHERE hour >= ?", text_of(since)[:13])
        return float(usd)
