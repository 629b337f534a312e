"""What is the matter with the disk that holds the state: learnt from each refused write, and asked for room.

Whoever writes the journal may find the disk full: a replica's life, the ledger, the charts. Some of these writes
still find a gap in what the file has already, so one that succeeds proves nothing; and a quiet service writes so
little that nobody would notice. So all refusals count, whoever meets them, and the file system is asked as well.
"""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from hedgeserve.errors import StateDirectoryError
from hedgeserve.fleet import EventKind
from hedgeserve.store import Store
from hedgeserve.units import format_bytes, format_duration

_LOOK_EVERY_S: Final = 5.0
_LITTLE_BYTES: Final = 16 * 2**20
"""What the journal's own log may take before it is folded into the file."""
_ENOUGH_BYTES: Final = 24 * 2**20
_PROOF_BYTES: Final = 256 * 2**10
_MEANWHILE: Final = (
    "requests are served on meanwhile, but no VM is launched that cannot be written down first, and the history "
    "gets gaps"
)


class StateDisk:
    """Watches over one state directory; ``record`` writes an event.

    A refusal stays a :attr:`trouble` until the journal was written since *and* the directory takes a new file.
    """

    def __init__(self, directory: Path, store: Store, record: Callable[[EventKind, str], Awaitable[None]]) -> None:
        self._directory = directory
        self._record = record
        self._free_bytes: int | None = None
        self._little = False
        self._refusal = ""
        self._written = True
        self._told_at_s: float | None = None
        self._look = asyncio.Event()
        store.heard = self._hear

    @property
    def trouble(self) -> str:
        """What is the matter and what to do about it; empty while all is well."""
        if self._refusal:
            return f"{self._refusal}; {_MEANWHILE}"
        if self._little and self._free_bytes is not None:
            return (
                f"the disk of {self._directory} has only {format_bytes(self._free_bytes // 2**20 * 2**20)} left: "
                "free some space, or nothing can be launched and written down any more"
            )
        return ""

    @property
    def halts(self) -> str:
        """Why something could not be written down, as an intent must be before a launch; empty while all can."""
        return self._refusal

    async def watch(self) -> None:
        """Look every few seconds, and at once when a write was refused, for ever."""
        while True:
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._look.wait()

    async def look(self) -> None:
        """Ask the file system, and tell when trouble begins and ends."""
        self._look.clear()
        self._free_bytes = await asyncio.to_thread(_free_bytes, self._directory)
        if self._free_bytes is not None:
            self._little = self._free_bytes < (_ENOUGH_BYTES if self._little else _LITTLE_BYTES)
        if self._refusal and self._written and await asyncio.to_thread(_takes_a_file, self._directory):
            self._refusal = "" if self._written else self._refusal
        if self.trouble and self._told_at_s is None:
            self._told_at_s = asyncio.get_running_loop().time()
            await self._record(EventKind.TROUBLE, self.trouble)
        elif not self.trouble and self._told_at_s is not None:
            span = format_duration(round(asyncio.get_running_loop().time() - self._told_at_s))
            self._told_at_s = None
            await self._record(
                EventKind.NOTE,
                f"the disk of {self._directory} takes the journal again after {span}; not all that happened "
                "meanwhile is in it",
            )

    def _hear(self, refused: StateDirectoryError | None) -> None:
        self._written = refused is None
        if refused is not None:
            self._refusal = str(refused)
            self._look.set()


def _free_bytes(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def _takes_a_file(directory: Path) -> bool:
    """Whether this much more can be written there, a quota and a broken disk included."""
    proof = directory / ".room"
    try:
        with open(proof, "wb") as file:
            file.write(bytes(_PROOF_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        with suppress(OSError):
            proof.unlink()
    return True
