"""What a service's model files asked for when they were last read: so a restart knows whether one has changed.

A service that is started again with the file of its last start is asked for nothing new: what was applied since
stays. Compared is what the file asks of replicas, not where it lies: a copy asks for the same.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

from hedgeserve.errors import StateDirectoryError
from hedgeserve.store import Store
from hedgeserve.tables.files import StoredFile
from hedgeserve.versions import Version

_STARTED, _APPLIED = "started", "applied"


class LastRead:
    """The file of the last start, and the other one that was applied since; :meth:`open` comes first."""

    def __init__(self, service: str, store: Store) -> None:
        self._service = service
        self._store = store
        self._files: dict[str, StoredFile] = {}

    async def open(self) -> None:
        """Take up what the store knows.

        Raises:
            StateDirectoryError: It cannot be read.
        """
        self._files = await self._store.load_files(self._service)

    @property
    def started(self) -> StoredFile | None:
        """The file of the last start, as it was last read; None: it is not known."""
        return self._files.get(_STARTED)

    def is_as_before(self, digest: str) -> bool:
        """Whether a start with a file that asks for this asks for what the last one did."""
        return self.started is not None and self.started.digest == digest

    def why_anew(self, source: str) -> str:
        """Why a start with this file, which asks for something else, brings that in."""
        last, path = self.started, absolute(source)
        if last is None:
            return f"{path} asks for it, and what the last start asked for is not known"
        if last.path != path:
            return f"the service was started with {path}, and the last time with {last.path}"
        return f"{path} asks for something else than when it was last read, at {_clock(last.at)}"

    def stays(self, source: str, asked: int, wanted: Version) -> str:
        """That what was applied stays, though the file of the start asks for another version."""
        applied = self._files.get(_APPLIED)
        what = f"version {wanted.number}"
        if applied is not None and applied.digest == wanted.digest:
            what += f" of {applied.path}, applied at {_clock(applied.at)},"
        path = absolute(source)
        return (
            f"{what} stays: {path} asks for version {asked} as it did at the last start, which `hedgeserve apply "
            f"{path}` or a reload would bring back; what needs no new replicas is as {path} says"
        )

    def next_start(self, applied: Path, digest: str) -> str:
        """What a start with the last one's file, unedited, makes of another that is applied; else empty."""
        last = self.started
        if last is None or last.path == absolute(applied):
            return ""
        begin = f"The service was started with {last.path}: the next start with that file"
        rest = (
            f"what needs no new replicas will be as {last.path} says. Start with {absolute(applied)} to keep all"
        )
        if last.digest == digest:
            return f"{begin} asks for the same replicas; {rest}"
        return f"{begin} keeps this version as long as the file is not edited; {rest}"

    async def started_with(self, source: str, digest: str) -> None:
        """Keep what the file of this start asks for.

        Raises:
            StateDirectoryError: It could not be written down.
        """
        await self._save(_STARTED, absolute(source), digest)

    async def applied(self, path: Path, digest: str) -> None:
        """Keep what a file asked for that is in force now."""
        source = absolute(path)
        role = _STARTED if self.started is not None and self.started.path == source else _APPLIED
        try:
            await self._save(role, source, digest)
        except StateDirectoryError:  # it is in force; a start without this asks once too often, or tells less
            return

    async def _save(self, role: str, path: str, digest: str) -> None:
        file = StoredFile(path, digest, datetime.now(UTC))
        await self._store.save_file(self._service, role, file)
        self._files[role] = file


def absolute(source: str | Path) -> str:
    """The file's place, the same from any directory."""
    return os.path.abspath(source)


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
