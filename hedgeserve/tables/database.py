"""The journal's file: made, checked, brought to today's format, opened, and asked one statement at a time.

Every question is one SQL statement in autocommit mode, run in the connection's own thread. So it is whole or not
there at all, also when its caller is cancelled half-way or the process is killed; no transaction is ever open
between two awaits. ``synchronous = FULL`` makes each commit reach the disk before its method returns: an intent
must be there before a cloud is asked.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import aiosqlite

from hedgeserve.errors import StateDirectoryError
from hedgeserve.migrations import MIGRATIONS

BUSY_TIMEOUT_S = 5.0
"""How long to wait for somebody who reads or copies the file with another tool."""

_READS = ("SELECT", "PRAGMA")

_WAL_BYTES = 16 * 2**20
"""What the write-ahead log may keep of the disk once its content is in the main file."""


class Database:
    """The open file, which each table's methods ask. Each method commits before it returns.

    A disk that is full, or a file that has become unreadable, raises
    :class:`~hedgeserve.errors.StateDirectoryError` from any method and changes nothing.
    """

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection = connection
        self.heard: Callable[[StateDirectoryError | None], None] = lambda refused: None
        """Called after each write with None, and after whatever was refused with why."""

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the journal, make it where it is missing, and bring it to today's format.

        Raises:
            StateDirectoryError: It cannot be read or written, is damaged, or was written by a newer HedgeServe.
        """
        # All that can go wrong with the file goes wrong here, before the connection's thread exists.
        await asyncio.to_thread(_bring_up_to_date, path)
        connection = await aiosqlite.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        store = cls(path, connection)
        try:
            connection.row_factory = sqlite3.Row
            await store._run("PRAGMA synchronous = FULL")
            await store._run("PRAGMA foreign_keys = ON")
            await store._run(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        except BaseException:
            await connection.close()
            raise
        return store

    async def close(self) -> None:
        """Close the file; what was committed is in it."""
        await self._connection.close()

    async def _run(self, sql: str, *values: object) -> Sequence[sqlite3.Row]:
        """One statement and all of its rows, committed; an ``IntegrityError`` is the caller's to explain."""
        try:
            rows = list(await self._connection.execute_fetchall(sql, values))
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            refused = _explained(error, self._path)
            self.heard(refused)
            raise refused from error
        if not sql.startswith(_READS):
            self.heard(None)
        return rows


def _bring_up_to_date(path: Path) -> None:
    """Make, check and migrate the file; blocking.

    Raises:
        StateDirectoryError: As :meth:`Store.open`.
    """
    try:
        # Only for its owner, whatever the directory and the umask allow; what SQLite puts beside it has its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError:
        pass  # SQLite says better what is wrong with it
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as database:
            # The format is looked at first: a file of a newer version must be left as it is.
            [version] = database.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise StateDirectoryError(
                    f"the journal {path} has format {version}, written by a newer HedgeServe; this one knows "
                    f"formats up to {len(MIGRATIONS)}; install the newer version again, or set "
                    "service.state_dir to another directory"
                )
            [verdict] = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _damaged(path, " ".join(str(verdict).split()))
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
                database.executescript(f"BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {number}; COMMIT;")
    except sqlite3.Error as error:
        raise _explained(error, path) from error


def text_of(at: datetime) -> str:
    """A time as UTC text of one fixed length, so that text order is time order."""
    if at.tzinfo is None:
        raise ValueError(f"{at} has no time zone; the journal's times are UTC")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def time_of(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _damaged(path: Path, detail: str) -> StateDirectoryError:
    return StateDirectoryError(
        f"the journal {path} is damaged ({detail}); move it and its -wal and -shm files away and start again: "
        "running VMs are found in the clouds' own lists, only the history is lost"
    )


def _explained(error: sqlite3.Error, path: Path) -> StateDirectoryError:
    """SQLite's refusal as a sentence with a next step, by its primary result code (https://sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(error))
    advice = {
        sqlite3.SQLITE_FULL: "free some space on its disk",
        sqlite3.SQLITE_READONLY: "make it and its directory writable for this user",
        sqlite3.SQLITE_CANTOPEN: "make it and its directory readable and writable for this user",
        sqlite3.SQLITE_PERM: "make it and its directory readable and writable for this user",
        sqlite3.SQLITE_IOERR: "look at the disk (`dmesg` may say more)",
        sqlite3.SQLITE_BUSY: "close the other program that has it open",
        sqlite3.SQLITE_LOCKED: "close the other program that has it open",
    }.get(code, "keep the file and report this")
    return StateDirectoryError(f"the journal {path} cannot be used: {error}; {advice}")
