"""API keys that ``hedgeserve keys`` has issued: what is kept of them, and the file that keeps it.

A key is 256 random bits, shown once; what is kept is its SHA-256. No salt and no slow hash: both are against
guessing, and 256 bits cannot be guessed; a slow hash would only make every first request of a key slow. The name
of a key's row is part of the key, so that it is found without trying them all.

Blocking, on purpose: belongs in threads and in the command line.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from hedgeserve.errors import HedgeServeError, StateDirectoryError

FILE = "api_keys.json"
_USED_FILE = "api_keys_used.json"
_LOCK_FILE = "api_keys.lock"
_PREFIX = "hs"
_MOST_KEYS = 10_000
_LARGEST_BYTES = 16 * 2**20
_LONGEST_NAME = 64
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """One key, without the key: whose it is, until when it is good, and what it may ask for.

    A limit that is None is the one in ``[limits]`` of model.toml.
    """

    id: str
    name: str
    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    requests_per_second: float | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file and in the admin API."""
        return {
            "id": self.id,
            "name": self.name,
            "sha256": self.sha256,
            "created_at": self.created_at.isoformat(timespec="seconds"),
            "expires_at": self.expires_at.isoformat(timespec="seconds") if self.expires_at else None,
            "requests_per_second": self.requests_per_second,
            "tokens_per_minute": self.tokens_per_minute,
            "concurrency": self.concurrency,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """The same back; raises ValueError or LookupError for anything else."""
        key = cls(
            id=str(given["id"]),
            name=check_name(str(given["name"])),
            sha256=str(given["sha256"]),
            created_at=_time(given["created_at"]),
            expires_at=_time(given["expires_at"]) if given.get("expires_at") is not None else None,
            requests_per_second=_limit(given.get("requests_per_second"), float),
            tokens_per_minute=_limit(given.get("tokens_per_minute"), int),
            concurrency=_limit(given.get("concurrency"), int),
        )
        if len(bytes.fromhex(key.sha256)) != 32 or not key.id.isalnum() or not key.id.isascii():
            raise ValueError("an id or a hash is not one")
        return key


def make_key(
    name: str,
    now: datetime,
    *,
    lasts_s: float | None = None,
    requests_per_second: float | None = None,
    tokens_per_minute: int | None = None,
    concurrency: int | None = None,
) -> tuple[IssuedKey, str]:
    """A new key: what is kept of it, and the key itself, which is never seen again.

    Raises:
        ValueError: The name cannot be one, or the time is longer than a calendar has.
    """
    identity = secrets.token_hex(4)
    key = f"{_PREFIX}-{identity}-{secrets.token_urlsafe(32)}"
    try:
        expires_at = None if lasts_s is None else now + timedelta(seconds=lasts_s)
    except OverflowError:
        raise ValueError("that is longer than any calendar; leave it out for a key that does not expire") from None
    digest = hashlib.sha256(key.encode()).hexdigest()
    issued = IssuedKey(
        identity, check_name(name), digest, now, expires_at, requests_per_second, tokens_per_minute, concurrency
    )
    return issued, key


def check_name(name: str) -> str:
    """The name as it is; raises ValueError where it cannot be shown in a table."""
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise ValueError(
            f"a key's name has 1 to {_LONGEST_NAME} characters that can be printed, no blanks around them"
        )
    return name


class KeyFile:
    """The issued keys of one state directory. Every change is whole or not there, and no two cross each other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """The file; where it is there, even empty, keys are asked for: to revoke the last one opens no door."""
        return self._directory / FILE

    def read(self) -> tuple[IssuedKey, ...] | None:
        """All keys, oldest first; None where none was ever issued.

        Raises:
            StateDirectoryError: The file cannot be read, or is damaged.
        """
        content = self._content(FILE)
        if content is None:
            return None
        try:
            return tuple(IssuedKey.from_json(each) for each in json.loads(content)["keys"])
        except (ValueError, LookupError, TypeError, AttributeError):
            raise StateDirectoryError(
                f'the issued API keys in {self.path} are damaged; put a copy back, or write {{"keys": []}} there '
                "and issue new ones"
            ) from None

    def add(self, key: IssuedKey) -> None:
        """Keep one more key.

        Raises:
            HedgeServeError: There is one of this name (or id), or there are too many.
            StateDirectoryError: The file cannot be read or written.
        """
        with self._locked():
            known = self.read() or ()
            if any(each.name == key.name or each.id == key.id for each in known):
                raise HedgeServeError(
                    f'there is a key named "{key.name}"; give another name, or revoke that one first'
                )
            if len(known) >= _MOST_KEYS:
                raise HedgeServeError(f"there are {_MOST_KEYS} keys, the most that are kept; revoke some first")
            self._write((*known, key))

    def revoke(self, name: str) -> IssuedKey:
        """Forget the key of this name or id; what it was.

        Raises:
            HedgeServeError: There is none.
            StateDirectoryError: The file cannot be read or written.
        """
        with self._locked():
            known = self.read() or ()
            for gone in (*(k for k in known if k.name == name), *(k for k in known if k.id == name)):
                self._write(tuple(each for each in known if each is not gone))
                return gone
        raise HedgeServeError(f'there is no key named "{name}"; `hedgeserve keys list` shows them')

    def used(self) -> dict[str, datetime]:
        """When each key, by its id, was last used, about; empty where nobody knows."""
        with suppress(StateDirectoryError, ValueError, LookupError, TypeError, AttributeError):
            return {str(name): _time(at) for name, at in json.loads(self._content(_USED_FILE) or "{}").items()}
        return {}

    def write_used(self, used: Mapping[str, datetime]) -> None:
        """Keep that.

        Raises:
            StateDirectoryError: The file cannot be written.
        """
        self._replace(_USED_FILE, {name: at.isoformat(timespec="seconds") for name, at in used.items()})

    def _write(self, keys: Sequence[IssuedKey]) -> None:
        self._replace(FILE, {"version": 1, "keys": [key.to_json() for key in keys]})

    def _content(self, name: str) -> bytes | None:
        try:
            with (self._directory / name).open("rb") as opened:
                content = opened.read(_LARGEST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _trouble(self._directory / name, "read", error) from None
        return content if len(content) <= _LARGEST_BYTES else b""

    def _replace(self, name: str, document: Any) -> None:
        path, draft = self._directory / name, self._directory / f".{name}.new"
        try:
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file, indent=1)
                file.flush()
                self._give_to_owner(file.fileno())
                os.fsync(file.fileno())
            draft.rename(path)
        except OSError as error:
            raise _trouble(path, "write", error) from None

    def _give_to_owner(self, descriptor: int) -> None:
        """What root writes here must still be the service's own."""
        owner = self._directory.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._directory / _LOCK_FILE
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _trouble(path, "write", error) from None
        try:
            self._give_to_owner(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _trouble(path: Path, doing: str, error: OSError) -> StateDirectoryError:
    return StateDirectoryError(
        f"cannot {doing} {path}: {error.strerror}; run as the user who owns {path.parent}, or mend that"
    )


def _time(given: Any) -> datetime:
    at = datetime.fromisoformat(str(given))
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _limit(given: Any, kind: type[_Number]) -> _Number | None:
    if given is None:
        return None
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not 0 < given < 1e12
        or kind(given) != given
    ):
        raise ValueError("a limit is a number above 0")
    return kind(given)
