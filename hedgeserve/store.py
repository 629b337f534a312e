"""The journal: what was intended, what happened and what it cost, in one SQLite file that survives ``kill -9``.

It is several tables in one file: :mod:`hedgeserve.tables`. Nothing secret is stored.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from hedgeserve.errors import StateDirectoryError
from hedgeserve.tables.database import BUSY_TIMEOUT_S
from hedgeserve.tables.events import EventTable
from hedgeserve.tables.files import FileTable
from hedgeserve.tables.ledger import LedgerTable
from hedgeserve.tables.memories import MemoryTable
from hedgeserve.tables.pauses import PauseTable
from hedgeserve.tables.replicas import ReplicaTable
from hedgeserve.tables.samples import SampleTable
from hedgeserve.tables.versions import VersionTable
from hedgeserve.tables.wants import WantTable


class Store(
    ReplicaTable, EventTable, LedgerTable, VersionTable, FileTable, PauseTable, WantTable, MemoryTable, SampleTable
):
    """The open journal. Each method is one SQL statement, committed before it returns.

    A disk that is full, or a file that has become unreadable, raises
    :class:`~hedgeserve.errors.StateDirectoryError` from any method and changes nothing.
    """

    async def acquire_lease(self, owner: str) -> int:
        """Make ``owner`` the owner of this state; the generation it returns is higher than any before it."""
        [[generation]] = await self._run(
            "INSERT INTO lease (only, owner, generation) VALUES (1, ?, 1) "
            "ON CONFLICT DO UPDATE SET owner = excluded.owner, generation = generation + 1 RETURNING generation",
            owner,
        )
        return int(generation)


def knows_replicas(path: Path) -> bool:
    """Whether a journal has ever had a replica, or cannot be asked; only reads. Blocking."""
    try:
        uri = f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as database:
            return database.execute("SELECT 1 FROM replicas LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return path.exists()


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
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as database:
            database.execute("BEGIN")  # both answers of one moment
            if database.execute("SELECT 1 FROM services WHERE name = ?", (service,)).fetchone() is None:
                return None
            found = database.execute(
                "SELECT id, vm_id FROM replicas WHERE service = ? AND state != 'gone'", (service,)
            ).fetchall()
    except sqlite3.Error as error:
        raise StateDirectoryError(f"the journal {path} cannot be read: {error}") from error
    return {str(replica): vm_id for replica, vm_id in found}
