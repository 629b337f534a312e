"""What a service that does not run may have left running, by its journal: whoever asks for it should be told."""

import os
import shlex
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from hedgeserve.statedir import resolve_state_dir

_BUSY_TIMEOUT_S = 1.0

_VMS = """
    SELECT service, created_at, coalesce(
            (SELECT usd_per_hour FROM ledger WHERE replica = one.id ORDER BY at DESC LIMIT 1), usd_per_hour),
        (SELECT max(at) FROM ledger WHERE replica = one.id)
    FROM replicas AS one
    WHERE state NOT IN ('planned', 'gone') AND (vm_id IS NOT NULL OR state = 'provisioning')
"""
_FILE = "SELECT path FROM files WHERE service = ? AND role = 'started'"


@dataclass(frozen=True, slots=True)
class Remains:
    """The VMs that a journal holds as not gone, at the last known prices.

    ``unbilled_usd`` is what they have cost since the ledger's last lines about them, if all of them run on: an
    estimate, and the most that it can be at these prices. ``named`` is how ``serve`` and ``down`` are told which
    service is meant: by the file of its last start, and its state directory where that is not the usual one.
    """

    service: str
    vms: int
    usd_per_hour: float
    unbilled_usd: float
    named: str

    def __str__(self) -> str:
        one = self.vms == 1
        vms, them = f"{self.vms} VM{'s' * (not one)}", "it" if one else "them"
        return (
            f"{self.service}'s journal holds {vms} that may still run, {self.usd_per_hour:.2f} USD/h: "
            f"`hedgeserve serve {self.named}` adopts {them}, `hedgeserve down {self.named}` ends {them}"
        )


def remains_in(directory: Path, now: datetime, since: datetime | None = None) -> Remains | None:
    """What the journal of this state directory holds; None where that is nothing, or cannot be read.

    What was spent before ``since`` is not counted. Only reads. Blocking.
    """
    journal = directory / "journal.db"
    if not journal.exists():
        return None
    try:
        uri = f"file:{quote(str(journal))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as database:
            database.execute("BEGIN")  # both answers of one moment
            rows = database.execute(_VMS).fetchall()
            if not rows:
                return None
            service = rows[0][0]
            tables = {name for [name] in database.execute("SELECT name FROM sqlite_master")}
            file = database.execute(_FILE, (service,)).fetchone() if "files" in tables else None
    except sqlite3.Error:  # an addition to what is said: whoever needs the journal says what is wrong with it
        return None
    usd_per_hour = unbilled_usd = 0.0
    for _, created_at, price, charged_until in rows:
        begin = datetime.fromisoformat(charged_until or created_at)
        begin = begin if since is None else max(begin, since)
        usd_per_hour += price
        unbilled_usd += max(0.0, (now - begin).total_seconds()) * price / 3600
    named = shlex.quote(file[0]) if file else "MODEL.toml"
    if directory != resolve_state_dir(service, "", os.environ):
        named += f" --state-dir {shlex.quote(str(directory))}"
    return Remains(service, len(rows), usd_per_hour, unbilled_usd, named)
