"""What there was of a state directory before it was opened: what a start that came to nothing goes back to."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_OUR_FILES = (
    "lock",
    "journal.db",
    "admin.sock",
    "admin_token",
    "engine_key",
    ".admin_token",
    ".engine_key",
    ".probe",
)
"""How the files begin that a start makes there."""
_OUR_FOLDERS = ("ssh", "local")


@dataclass(frozen=True, slots=True)
class Beforehand:
    """The ``names`` that were in the directory, and the directories that were ``missing``, the deepest first."""

    names: frozenset[str]
    missing: tuple[Path, ...]

    @classmethod
    def look(cls, path: Path) -> Self:
        """As it is now."""
        names: frozenset[str] = frozenset()
        with suppress(OSError):  # none is there, or whoever opens it is told what is wrong with it
            names = frozenset(os.listdir(path))
        return cls(names, tuple(one for one in (path, *path.parents) if not one.exists()))

    def restore(self, path: Path) -> None:
        """Have it be so again, as far as that can be had: what was there, and what others have put there, stays.

        Where there was a journal nothing is touched: it is an earlier run's. The lock goes last: until then nobody
        else begins there.
        """
        if "journal.db" in self.names:
            return
        with suppress(OSError):
            for name in sorted(set(os.listdir(path)) - self.names, key=lambda name: name == "lock"):
                if name in _OUR_FOLDERS:
                    shutil.rmtree(path / name, ignore_errors=True)
                elif name.startswith(_OUR_FILES):
                    (path / name).unlink(missing_ok=True)
            for one in self.missing:
                one.rmdir()
