"""Which model files services were started with, and which were applied since."""

from dataclasses import dataclass
from datetime import datetime

from hedgeserve.tables.database import Database, text_of


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A model file as it was read: ``digest`` is that of the version which it asked for."""

    path: str
    digest: str
    at: datetime


class FileTable(Database):
    """One row a service and ``role``: the file of its last start, the one that was applied last."""

    async def save_file(self, service: str, role: str, file: StoredFile) -> None:
        """Keep this in the place of what was kept in this role before."""
        await self._run(
            "INSERT INTO files (service, role, path, digest, at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET path = excluded.path, digest = excluded.digest, at = excluded.at",
            service, role, file.path, file.digest, text_of(file.at),
        )  # fmt: skip

    async def load_files(self, service: str) -> dict[str, StoredFile]:
        """What was kept last, by role."""
        rows = await self._run("SELECT role, path, digest, at FROM files WHERE service = ?", service)
        return {role: StoredFile(path, digest, datetime.fromisoformat(at)) for role, path, digest, at in rows}
