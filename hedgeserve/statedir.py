"""The state directory: where a service keeps its journal, keys and admin socket, held by one process at a time.

Blocking, on purpose: it is opened once, before the event loop serves anybody.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from hedgeserve.beforehand import Beforehand
from hedgeserve.errors import StateDirectoryError, StateLockedError
from hedgeserve.redaction import learn

_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux: ``sun_path`` has 108 bytes, one of them the closing zero."""

_LOCK_BYTES = 4096
_SECRET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAKEN_NAMES = frozenset({"lock", "journal.db", "admin.sock", "ssh", "local", "api_keys.json"})


def state_root(environ: Mapping[str, str]) -> Path:
    """The directory under which state belongs, by the customs of systemd and XDG.

    ``$STATE_DIRECTORY`` (systemd) is already one service's own directory; of several, the first is taken.
    Otherwise ``$XDG_STATE_HOME/hedgeserve``, or ``~/.local/state/hedgeserve``, holds one directory per service;
    a relative ``$XDG_STATE_HOME`` is ignored, as its specification asks.
    """
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given)
    xdg = Path(environ.get("XDG_STATE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "hedgeserve"
    home = environ.get("HOME", "")
    return (Path(home) if home else Path.home()) / ".local" / "state" / "hedgeserve"


def resolve_state_dir(service_name: str, configured: str, environ: Mapping[str, str]) -> Path:
    """The absolute state directory of one service: what model.toml says, else :func:`state_root`'s."""
    if configured:
        home = environ.get("HOME", "")
        if home and (configured == "~" or configured.startswith("~/")):
            return Path(home + configured[1:]).absolute()
        return Path(configured).expanduser().absolute()
    root = state_root(environ)
    if environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return root.absolute()
    return (root / service_name).absolute()


def admin_socket_in(directory: Path) -> Path:
    """Where the admin socket of a state directory is, held or not.

    Raises:
        StateDirectoryError: The path is longer than a Unix socket allows.
    """
    path = directory / "admin.sock"
    length = len(os.fsencode(path))
    if length > _SOCKET_PATH_BYTES:
        raise StateDirectoryError(
            f"the admin socket's path {path} has {length} bytes and a Unix socket allows {_SOCKET_PATH_BYTES}; "
            "set service.state_dir to a shorter path"
        )
    return path


class StateDirectory:
    """A state directory that can be written and is held by this process alone, from :meth:`open` to :meth:`close`.

    The hold is an exclusive ``flock``: the kernel ends it with the process, however that dies, and child
    processes do not inherit it. A lock on a file that has been removed meanwhile is none: whoever gets one tries
    again.
    """

    def __init__(self, path: Path, lock_fd: int, before: Beforehand) -> None:
        self.path = path
        self._lock_fd: int | None = lock_fd
        self._before = before

    @classmethod
    def open(cls, path: Path, *, service: str = "") -> Self:
        """Make the directory (0700) where it is missing, take the lock, and write a probe file to the disk.

        ``service`` is only told to whoever finds the lock taken.

        Raises:
            StateLockedError: Another process holds the directory; says which, since when, and what to do.
            StateDirectoryError: It cannot be made, locked or written; says why, and what to do.
        """
        path = path.absolute()
        with _explained(path, "make the state directory"):
            before = Beforehand.look(path)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = path.stat().st_mode
        if mode & stat.S_IWOTH:
            raise StateDirectoryError(
                f"the state directory {path} can be written by everybody on this machine (mode "
                f"{stat.S_IMODE(mode):04o}), and it is to hold keys; run `chmod 700 {path}` or set "
                "service.state_dir to a directory of your own"
            )
        lock_fd = _lock(path, service)
        try:
            # The probe comes after the lock, so that a second instance is told who holds the directory rather
            # than what else is wrong with it.
            with _explained(path, "write in the state directory"):
                _probe(path)
                for name in ("ssh", "local"):
                    (path / name).mkdir(mode=0o700, exist_ok=True)
        except BaseException:
            before.restore(path)
            os.close(lock_fd)
            raise
        return cls(path, lock_fd, before)

    def close(self) -> None:
        """Let the directory go; what is in it stays. Closing twice is one closing."""
        if self._lock_fd is None:
            return
        lock_fd, self._lock_fd = self._lock_fd, None
        os.close(lock_fd)

    def forget(self) -> None:
        """Take away what has come since it was opened, and let go: for a start that came to nothing.

        Where there was a journal before, everything stays: it is an earlier run's.
        """
        if self._lock_fd is not None:
            self._before.restore(self.path)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def journal(self) -> Path:
        """The file of :class:`hedgeserve.store.Store`."""
        return self.path / "journal.db"

    @property
    def admin_socket(self) -> Path:
        """Where ``hedgeserve status`` finds the running service; :func:`admin_socket_in` says when it raises."""
        return admin_socket_in(self.path)

    @property
    def ssh_dir(self) -> Path:
        """A directory for SSH keys, there and private (0700)."""
        return self.path / "ssh"

    @property
    def local_dir(self) -> Path:
        """A directory for the local driver's VMs, there and private (0700)."""
        return self.path / "local"

    def secret(self, name: str) -> str:
        """The secret of this name: 256 random bits in URL-safe text, made at the first call, then always the same.

        It lies in a file of that name which only its owner can read (0600), and is whole or not there at all
        even if the process dies while it is written.

        Raises:
            ValueError: The name cannot be a file of its own here.
            StateDirectoryError: The file cannot be read or written, others can read it, or it is damaged.
        """
        if not _SECRET_NAME.fullmatch(name) or name in _TAKEN_NAMES:
            raise ValueError(f"{name!r} cannot name a secret: lower-case letters, digits, '.', '_', '-'")
        path = self.path / name
        with _explained(path, "keep the secret"):
            try:
                mode, text = path.stat().st_mode, path.read_text(encoding="ascii", errors="replace").strip()
            except FileNotFoundError:
                return _told_of(_write_secret(path))
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StateDirectoryError(
                f"others on this machine may have read the secret in {path} (mode {stat.S_IMODE(mode):04o}); "
                f"delete the file to have a new one made, or run `chmod 600 {path}` if you trust them"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]{43,}", text):
            raise StateDirectoryError(f"the secret in {path} is damaged; delete the file to have a new one made")
        return _told_of(text)


def _lock(directory: Path, service: str) -> int:
    """The descriptor of the locked lock file, which from now on names this process."""
    while True:
        descriptor = _lock_file(directory, service)
        # A start that came to nothing takes its lock file away with it; what was locked then is no file any more.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(directory / "lock")):
                return descriptor
        os.close(descriptor)
        if not directory.is_dir():
            with _explained(directory, "make the state directory"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _lock_file(directory: Path, service: str) -> int:
    path = directory / "lock"
    with _explained(path, "take the lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with _explained(path, "take the lock"):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateLockedError(_held_by(directory, os.pread(descriptor, _LOCK_BYTES, 0))) from None
            holder = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "service": service,
            }
            content = json.dumps(holder).encode() + b"\n"
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _held_by(directory: Path, content: bytes) -> str:
    try:
        holder = json.loads(content)
        pid, host, since = int(holder["pid"]), str(holder["host"]), str(holder["started_at"])
        name = f" ({holder['service']})" if holder["service"] else ""
        who = f"process {pid}{name} on {host}, since {since}"
        advice = f"stop that one first (`kill {pid}` on {host})"
    except (ValueError, KeyError, TypeError):
        # It took the lock a moment ago and has not written its name yet.
        who, advice = "another process that is just starting", "stop that one first"
    return (
        f"the state directory {directory} is held by {who}; {advice}, or give this instance a state directory "
        "of its own with service.state_dir"
    )


def _probe(directory: Path) -> None:
    """Write one block through to the disk: the only way to learn that it can be done."""
    path = directory / ".probe"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, bytes(4096))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _told_of(secret: str) -> str:
    learn(secret)
    return secret


def _write_secret(path: Path) -> str:
    secret = secrets.token_urlsafe(32)
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secret.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(path)
    return secret


_REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "free some space there"),
    errno.EDQUOT: ("the disk quota is used up", "free some space there"),
    errno.EACCES: ("this user lacks the permission", "run as the user who owns it"),
    errno.EPERM: ("this user lacks the permission", "run as the user who owns it"),
    errno.EROFS: ("the file system is read-only", "mount it writable"),
    errno.ENOTDIR: ("a part of the path is a file, not a directory", "move that file away"),
    errno.EEXIST: ("there is a file of that name, not a directory", "move that file away"),
    errno.ELOOP: ("it is a symbolic link", "remove the link"),
    errno.ENOLCK: ("its file system cannot lock files", "use a local disk"),
    errno.EOPNOTSUPP: ("its file system cannot lock files", "use a local disk"),
}


@contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into sentences with a next step."""
    try:
        yield
    except OSError as error:
        reason, advice = _REASONS.get(error.errno or 0, (os.strerror(error.errno or 0), "mend that"))
        raise StateDirectoryError(
            f"cannot {doing} {path}: {reason}; {advice}, or set service.state_dir to "
            "a directory that this user can write"
        ) from error
