"""The ledger as it is read: by a service that runs, and from a journal whose service does not."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hedgeserve.errors import StateDirectoryError
from hedgeserve.policy.ledger import (
    DAY,
    EARLIER,
    Account,
    Baseline,
    Line,
    Period,
    Purpose,
    begin_of,
    forecast_month_usd,
    purpose_of,
)

_BUSY_TIMEOUT_S = 5.0

_LINES = """
    WITH sums AS (
        SELECT substr(at, 1, 10) AS day, replica, purpose, sum(seconds) AS seconds,
            sum(seconds * usd_per_hour) / 3600 AS usd
        FROM ledger WHERE at >= :since AND at < :until GROUP BY 1, 2, 3
        UNION ALL
        SELECT substr(hour, 1, 10), replica, purpose, sum(seconds), sum(usd)
        FROM ledger_hours WHERE hour >= substr(:since, 1, 13) AND hour < :until GROUP BY 1, 2, 3
    )
    SELECT day, replica, zone, market, purpose, seconds, usd, state IN ('terminating', 'gone'), served
    FROM sums JOIN replicas ON replicas.id = sums.replica
"""
_LINES_BEFORE = """
    WITH sums AS (
        SELECT substr(at, 1, 10) AS day, replica, purpose, sum(seconds) AS seconds,
            sum(seconds * usd_per_hour) / 3600 AS usd
        FROM ledger WHERE at >= :since AND at < :until GROUP BY 1, 2, 3
    )
    SELECT day, replica, zone, market, purpose, seconds, usd, state IN ('terminating', 'gone'),
        EXISTS (SELECT 1 FROM ledger WHERE ledger.replica = sums.replica AND ledger.purpose = 'serving')
    FROM sums JOIN replicas ON replicas.id = sums.replica
"""
_DAYS = """
    SELECT day, zone, market, purpose, sum(seconds), sum(usd)
    FROM ledger_days WHERE day >= substr(:since, 1, 10) AND day < :until GROUP BY 1, 2, 3, 4
"""
_BASELINE = """
    SELECT substr(hour, 1, 10), sum(seconds), sum(usd), sum(unpriced_s)
    FROM baseline WHERE hour >= substr(:since, 1, 13) AND hour < :until GROUP BY 1
"""
_BASELINE_DAYS = """
    SELECT day, seconds, usd, unpriced_s FROM baseline_days WHERE day >= substr(:since, 1, 10) AND day < :until
"""
_SPENT = "SELECT total(seconds * usd_per_hour) / 3600 FROM ledger WHERE at >= :since AND at < :until"
_SPENT_ADDED_UP = """
    SELECT (SELECT total(usd) FROM ledger_hours WHERE hour >= substr(:since, 1, 13) AND hour < :until)
        + (SELECT total(usd) FROM ledger_days WHERE day >= substr(:since, 1, 10) AND day < :until)
"""
_IS_DAY = """
    SELECT EXISTS (SELECT 1 FROM ledger_days WHERE day = substr(:since, 1, 10))
        OR EXISTS (SELECT 1 FROM baseline_days WHERE day = substr(:since, 1, 10))
"""
_IS_HOUR = "SELECT EXISTS (SELECT 1 FROM ledger_hours WHERE hour = substr(:since, 1, 13))"
_IS_OLD = "SELECT EXISTS (SELECT 1 FROM ledger_hours) OR EXISTS (SELECT 1 FROM ledger_days)"


def read_account(
    journal: Path,
    since: datetime,
    until: datetime,
    *,
    unbilled: Sequence[Line] = (),
    unkept: Sequence[Baseline] = (),
) -> tuple[Account, float | None]:
    """What was spent in this time, and what the month (UTC) of ``until`` will have cost if it goes on like this.

    "Like this" is the last day before ``until``, or as much of it as there is. Where the lines around ``since``
    have been added up, the account begins with their hour or day (UTC), and says so. ``unbilled`` and ``unkept``
    are what the journal does not hold yet, up to ``until``. Only reads, so that it may be asked while another
    process writes. Blocking.

    Raises:
        StateDirectoryError: There is no such journal, or it cannot be read.
    """
    if not journal.exists():
        raise StateDirectoryError(f"there is no journal {journal}: no service has run with this state directory")
    try:
        uri = f"file:{quote(str(journal))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as database:
            database.execute("BEGIN")  # all answers of one moment
            books = _Books(database)
            since = books.told_since(since)
            day, month = f"{since:%Y-%m-%d}", f"{until.astimezone(UTC):%Y-%m}"
            lines = [*books.lines(since, until), *(line for line in unbilled if line.day >= day)]
            account = Account(since, until, lines, [*books.baseline(since, until), *unkept])
            lately = books.lately(until)
            month_usd = books.spent(begin_of(Period.MONTH, until), until)
            month_usd += sum(line.usd for line in unbilled if line.day.startswith(month))
            lately_usd = books.spent(until - lately, until) + sum(line.usd for line in unbilled)
    except sqlite3.Error as error:
        raise StateDirectoryError(f"the journal {journal} cannot be read: {error}") from error
    forecast = forecast_month_usd(month_usd=month_usd, lately_usd=lately_usd, lately=lately, now=until)
    return account, forecast


class _Books:
    """The journal's tables of money, of any format: one that only an earlier version has written lacks some."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        tables = {name for [name] in database.execute("SELECT name FROM sqlite_master")}
        self._is_added_up = "ledger_days" in tables
        self._has_baseline = "baseline" in tables

    def told_since(self, since: datetime) -> datetime:
        """The time from which on what was spent since then can be told."""
        since = since.astimezone(UTC)
        if self._is_added_up and self._one(_IS_DAY, since):
            return begin_of(Period.DAY, since)
        if self._is_added_up and self._one(_IS_HOUR, since):
            return begin_of(Period.HOUR, since)
        return since

    def lines(self, since: datetime, until: datetime) -> Iterator[Line]:
        """What was charged, by day, replica and purpose; where that is forgotten, by day, zone and purpose."""
        sql = _LINES if self._is_added_up else _LINES_BEFORE
        for day, replica, zone, market, written, seconds, usd, ended, served in self._ask(sql, since, until):
            purpose = purpose_of(written, ended=bool(ended), served=bool(served))
            yield Line(day, replica, zone, market, purpose, seconds, usd)
        if self._is_added_up:
            for day, zone, market, purpose, seconds, usd in self._ask(_DAYS, since, until):
                yield Line(day, EARLIER, zone, market, Purpose(purpose), seconds, usd)

    def baseline(self, since: datetime, until: datetime) -> Iterator[Baseline]:
        """What on demand alone would have cost, by day."""
        for sql, known in ((_BASELINE, self._has_baseline), (_BASELINE_DAYS, self._is_added_up)):
            yield from (Baseline(*row) for row in (self._ask(sql, since, until) if known else ()))

    def spent(self, since: datetime, until: datetime) -> float:
        """US dollars."""
        usd = self._one(_SPENT, since, until)
        return float(usd + self._one(_SPENT_ADDED_UP, since, until)) if self._is_added_up else float(usd)

    def lately(self, until: datetime) -> timedelta:
        """The last day, or as much of it as there are lines of."""
        if self._is_added_up and self._one(_IS_OLD):
            return DAY
        first = self._one("SELECT min(at) FROM ledger")
        return max(timedelta(), min(DAY, until - datetime.fromisoformat(first))) if first else timedelta()

    def _one(self, sql: str, since: datetime | None = None, until: datetime | None = None) -> Any:
        return next(iter(self._ask(sql, since, until)))[0]

    def _ask(self, sql: str, since: datetime | None, until: datetime | None) -> Iterator[Any]:
        times = {"since": since and _text(since), "until": until and _text(until)}
        return self._database.execute(sql, times)


def _text(at: datetime) -> str:
    """As the journal writes times: UTC, of one length, so that text order is time order."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
