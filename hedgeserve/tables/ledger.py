"""The ledger: what VMs have cost, and what on demand alone would have."""

import sqlite3
from datetime import datetime

from hedgeserve.replica import ReplicaId
from hedgeserve.tables.database import Database, text_of

_CHUNK = 2000
"""Lines that are added up in one statement, so that nobody else waits long."""


class LedgerTable(Database):
    """Seconds and prices of each replica, and the baseline by the hour; both are added up as they grow old.

    A line that is added up goes into the sum of its hour, an hour into that of its day, within the statement that
    removes it (the triggers of :mod:`hedgeserve.migrations`): at no moment, ``kill -9`` or not, is it in both or
    in neither, and no sum changes by it.
    """

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
        [[at]] = await self._run(
            "SELECT max(at) FROM (SELECT max(at) AS at FROM ledger WHERE replica = ?1 "
            "UNION ALL SELECT max(until) FROM ledger_hours WHERE replica = ?1)",
            replica,
        )
        return datetime.fromisoformat(at) if at else None

    async def last_price(self, replica: ReplicaId) -> float | None:
        """US dollars an hour that this replica was charged at last; None where no line tells it any more."""
        rows = await self._run(
            "SELECT usd_per_hour FROM ledger WHERE replica = ? ORDER BY at DESC, id DESC LIMIT 1", replica
        )
        return float(rows[0][0]) if rows else None

    async def spent_usd(self, since: datetime | None = None) -> float:
        """US dollars charged, in all or at and after a time: of what is added up by now, since its hour or day."""
        text = "" if since is None else text_of(since)
        [[usd]] = await self._run(
            "SELECT (SELECT total(seconds * usd_per_hour) / 3600 FROM ledger WHERE at >= ?) "
            "+ (SELECT total(usd) FROM ledger_hours WHERE hour >= ?) "
            "+ (SELECT total(usd) FROM ledger_days WHERE day >= ?)",
            text, text[:13], text[:10],
        )  # fmt: skip
        return float(usd)

    async def add_up_lines(self, *, before: datetime) -> int:
        """Add the oldest lines before this time up by hour, replica and purpose; how many, 0: none is left."""
        gone = await self._run(
            "DELETE FROM ledger WHERE id IN (SELECT id FROM ledger WHERE at < ? ORDER BY at LIMIT ?) RETURNING 1",
            text_of(before), _CHUNK,
        )  # fmt: skip
        return len(gone)

    async def add_up_hours(self, *, before: datetime, keep: int) -> int:
        """Add the oldest hours up by day, zone, market, kind of VM and purpose; how many, 0: none is left.

        Those before this time, and all but the newest ``keep``. The newest of a replica that lives stays, which
        tells until when it is charged, and so do all of one that may yet turn out to be a failed boot.
        """
        gone = await self._run(
            "DELETE FROM ledger_hours WHERE (hour, replica, purpose) IN ("
            "SELECT hour, replica, purpose FROM ledger_hours AS one JOIN replicas ON replicas.id = one.replica "
            "WHERE hour < max(?1, coalesce((SELECT substr(hour, 1, 10) FROM ledger_hours ORDER BY hour DESC "
            "LIMIT 1 OFFSET ?2), '')) AND (state = 'gone' OR served AND hour < "
            "(SELECT max(hour) FROM ledger_hours AS other WHERE other.replica = one.replica)) "
            "ORDER BY hour LIMIT ?3) RETURNING 1",
            text_of(before)[:13], keep, _CHUNK,
        )  # fmt: skip
        return len(gone)

    async def add_up_baseline(self, *, before: datetime) -> None:
        """Add the hours of the baseline before this time up by day; the newest stays as it is."""
        await self._run(
            "DELETE FROM baseline WHERE hour < ? AND hour < (SELECT max(hour) FROM baseline)", text_of(before)[:13]
        )

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
        """What on demand alone would have cost since this hour (UTC), as far as prices were known.

        Of what is added up by now, since this day.
        """
        [[usd]] = await self._run(
            "SELECT (SELECT total(usd) FROM baseline WHERE hour >= ?) "
            "+ (SELECT total(usd) FROM baseline_days WHERE day >= ?)",
            text_of(since)[:13], text_of(since)[:10],
        )  # fmt: skip
        return float(usd)

    async def baseline_s(self, since: datetime) -> float:
        """For how long on demand alone has been counted since this hour (UTC); of what is added up, this day."""
        [[seconds]] = await self._run(
            "SELECT (SELECT total(seconds) FROM baseline WHERE hour >= ?) "
            "+ (SELECT total(seconds) FROM baseline_days WHERE day >= ?)",
            text_of(since)[:13], text_of(since)[:10],
        )  # fmt: skip
        return float(seconds)
