"""The ledger as it is read: by a service that runs, and from a journal whose service does not."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from hedgeserve.errors import StateDirectoryError
from hedgeserve.policy.ledger import (
    DAY,
    Account,
    Baseline,
    Line,
    Period,
    begin_of,
    forecast_month_usd,
    purpose_of,
)

_BUSY_TIMEOUT_S = 5.0

_LINES = """
    WITH sums AS (
        SELECT substr(at, 1, 10) AS day, replica, purpose, sum(seconds) AS seconds,
            sum(seconds * usd_per_hour) / 3600 AS usd
        FROM ledger WHERE at >= ? AND at < ? GROUP BY 1, 2, 3
    )
    SELECT day, replica, zone, market, purpose, seconds, usd, state IN ('terminating', 'gone'),
        EXISTS (SELECT 1 FROM ledger WHERE ledger.replica = sums.replica AND ledger.purpose = 'serving')
    FROM sums JOIN replicas ON replicas.id = sums.replica
"""
_BASELINE = """
    SELECT substr(hour, 1, 10), sum(seconds), sum(usd), sum(unpriced_s)
    FROM baseline WHERE hour >= ? AND hour < ? GROUP BY 1
"""


def read_account(journal: Path, since: datetime, until: datetime) -> tuple[Account, float | None]:
    """What was spent in this time, and what the month (UTC) of ``until`` will have cost if it goes on like this.

    "Like this" is the last day before ``until``, or as much of it as there is. Only reads, so that it may be asked
    while another process writes. Blocking.

    Raises:
        StateDirectoryError: There is no such journal, or it cannot be read.
    """
    if not journal.exists():
        raise StateDirectoryError(f"there is no journal {journal}: no service has run with this state directory")
    try:
        uri = f"file:{quote(str(journal))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as database:
            database.execute("BEGIN")  # all answers of one moment
            account = _account(database, since, until)
            month_usd = _spent(database, begin_of(Period.MONTH, until), until)
            [first] = database.execute("SELECT min(at) FROM ledger").fetchone()
            lately = timedelta()
            if first is not None:
                lately = max(timedelta(), min(DAY, until - datetime.fromisoformat(first)))
            lately_usd = _spent(database, until - lately, until)
    except sqlite3.Error as error:
        raise StateDirectoryError(f"the journal {journal} cannot be read: {error}") from error
    forecast = forecast_month_usd(month_usd=month_usd, lately_usd=lately_usd, lately=lately, now=until)
    return account, forecast


def _account(database: sqlite3.Connection, since: datetime, until: datetime) -> Account:
    lines = [
        Line(day, replica, zone, market, purpose_of(purpose, ended=bool(ended), served=bool(served)), seconds, usd)
        for day, replica, zone, market, purpose, seconds, usd, ended, served in database.execute(
            _LINES, (_text(since), _text(until))
        )
    ]
    baseline = []
    # A journal that only an earlier version has written has no such table.
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'baseline'").fetchone():
        baseline = [Baseline(*row) for row in database.execute(_BASELINE, (_text(since)[:13], _text(until)))]
    return Account(since, until, lines, baseline)


def _spent(database: sqlite3.Connection, since: datetime, until: datetime) -> float:
    [usd] = database.execute(
        "SELECT total(seconds * usd_per_hour) / 3600 FROM ledger WHERE at >= ? AND at < ?",
        (_text(since), _text(until)),
    ).fetchone()
    return float(usd)


def _text(at: datetime) -> str:
    """As the journal writes times: UTC, of one length, so that text order is time order."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
