"""The directory that all VMs of one local service live in: started, found again and taken away. Blocks.

The directory and ``/proc`` are the whole truth; nothing is remembered in this process, so that a controller
that starts after a crash sees what its predecessor saw. Every method may be called from any thread, and raises
``OSError`` where this machine is in trouble: what cannot be looked at is neither alive nor dead.
"""

import errno
import http
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from hedgeserve.drivers.base import Machine, MachineState
from hedgeserve.drivers.localcloud.processes import (
    MARKER_VARIABLE,
    Identity,
    family,
    identify,
    kill_family,
    lives,
    reap,
)
from hedgeserve.drivers.localcloud.record import VmFiles, VmRecord, read_identity, write_identity, write_private
from hedgeserve.drivers.localcloud.trouble import NOT_THERE, explain
from hedgeserve.errors import CloudError

_KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PYTHONPATH", "SHELL", "TMPDIR", "TZ", "USER")
"""What a VM sees of our environment. Not the rest: it may hold secrets, and no cloud would hand it over."""
_KILL_DEADLINE_S = 10.0
_CONTROL_TIMEOUT_S = 5.0
_CONTROL_RETRY_S = 0.02
_ADDRESS_TRIES = 16


@dataclass(frozen=True, slots=True)
class LocalVm:
    """A VM that lives: ``running`` once its SSH server listens."""

    record: VmRecord
    files: VmFiles
    running: bool

    @property
    def machine(self) -> Machine:
        """The VM in the words that all drivers share."""
        return self.record.machine(self.files, MachineState.RUNNING if self.running else MachineState.PENDING)


class VmDirectory:
    """The VMs of one service, each in a directory of its own under ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._lock = threading.Lock()

    @property
    def root(self) -> Path:
        """Absolute path of the directory."""
        return self._root

    def living(self) -> Sequence[LocalVm]:
        """Every VM that lives. What is left of dead ones is cleared away: stray processes, then files.

        Raises:
            CloudError: The directory cannot be read, or a stray process cannot be killed.
        """
        with self._lock:
            return self._living()

    def launch(self, record: VmRecord, *, authorized_key: str, host_key: str) -> LocalVm:
        """Start a VM; returns as soon as its first process runs. The address and ports are chosen here.

        Raises:
            CloudError: There is a VM of that name, or this machine has no room for another one.
        """
        files = VmFiles(self._root / record.name)
        with self._lock:
            there = self._living()
            if any(vm.record.name == record.name for vm in there):
                raise CloudError(f"there is a VM named {record.name} already; give each launch a new name")
            try:
                record = _with_address(record, files, taken={vm.record.address for vm in there})
                self._furnish(files, record, authorized_key=authorized_key, host_key=host_key)
                self._start(files)
            except OSError as error:
                self._clear(files)
                raise CloudError(f"cannot start {record.name} in {self._root}: {explain(error)}") from error
        return LocalVm(record, files, running=False)

    def terminate(self, name: str) -> None:
        """Kill the VM and remove its directory; returns when nothing is left. No such VM: nothing to do.

        Raises:
            CloudError: Something is left.
        """
        if not self._is_there(name):
            return
        files = VmFiles(self._root / name)
        # Without the lock: a process that is slow to die must not hold up the other VMs.
        _kill(files)
        with self._lock:
            self._clear(files)

    def preempt(self, name: str, *, notice_s: float) -> None:
        """Have the VM announce its end and come to it; returns when the notice is out, or all of it is dead.

        Without notice, and where a VM does not take the order, it is killed here: a cloud asks nobody for leave.

        Raises:
            CloudError: There is no such VM, or something of it cannot be killed.
        """
        files, record = self._look_up(name)
        if notice_s <= 0 or not _command(files, record, "preempt", {"notice_s": notice_s}):
            _kill(files)

    def vanish(self, name: str, *, seen_after_s: float) -> None:
        """Have the VM fall silent with its connections open, and end ``seen_after_s`` later.

        Returns once it is silent. One that does not take the order is killed, as :meth:`preempt` does without
        notice.

        Raises:
            CloudError: There is no such VM, or something of it cannot be killed.
        """
        files, record = self._look_up(name)
        if not _command(files, record, "vanish", {"seen_after_s": seen_after_s}):
            _kill(files)

    def rebalance(self, name: str) -> None:
        """Have the VM's metadata service recommend to move elsewhere.

        Raises:
            CloudError: There is no such VM, or it does not answer.
        """
        files, record = self._look_up(name)
        if not _command(files, record, "rebalance", {}):
            raise CloudError(f"VM {name} does not answer on {record.address}:{record.control_port}")

    def _look_up(self, name: str) -> tuple[VmFiles, VmRecord]:
        files = VmFiles(self._root / name)
        record = _read_record(files) if self._is_there(name) else None
        if record is None or not _alive(files):
            raise CloudError(f"there is no VM {name}")
        return files, record

    def _is_there(self, name: str) -> bool:
        return name in self._names()

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._root) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CloudError(f"cannot list the VMs in {self._root}: {error.strerror}") from error

    def _living(self) -> list[LocalVm]:
        found = []
        for name in self._names():
            files = VmFiles(self._root / name)
            record = _read_record(files)
            if record is not None and _alive(files):
                found.append(LocalVm(record, files, files.running.exists()))
            else:
                _kill(files)
                self._clear(files)
        return found

    def _furnish(self, files: VmFiles, record: VmRecord, *, authorized_key: str, host_key: str) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.root.mkdir(mode=0o700)
        files.home.mkdir(mode=0o700)
        write_private(files.host_key, host_key.rstrip("\n") + "\n")
        write_private(files.authorized_keys, authorized_key.rstrip("\n") + "\n")
        write_private(files.record, record.to_json())

    def _start(self, files: VmFiles) -> None:
        """Start the supervisor as a daemon of its own: neither our end nor our terminal touches it."""
        env = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "hedgeserve.drivers.localcloud.vm", str(files.root)],
            env | {MARKER_VARIABLE: files.marker},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(files.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        try:
            # A crash before this is written is survived: the VM is then known by its marker.
            if (identity := identify(pid)) is None:
                raise ChildProcessError("its first process died at once")
            write_identity(files.supervisor, identity)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def _clear(self, files: VmFiles) -> None:
        try:
            shutil.rmtree(files.root)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CloudError(
                f"cannot remove what is left of VM {files.root.name}: {error.filename}: {error.strerror}"
            ) from error


def _alive(files: VmFiles) -> bool:
    """Whether the VM's supervisor runs. Our own dead children are reaped on the way."""
    identity = read_identity(files.supervisor)
    if identity is None:
        return bool(family(files.marker))
    if lives(identity):
        return True
    reap(identity)
    return False


def _kill(files: VmFiles) -> None:
    written = (read_identity(files.supervisor), read_identity(files.sshd))
    roots: list[Identity] = [identity for identity in written if identity is not None]
    left = kill_family(files.marker, roots, deadline_s=_KILL_DEADLINE_S)
    if left:
        raise CloudError(
            f"processes {sorted(left)} of VM {files.root.name} outlived SIGKILL for {_KILL_DEADLINE_S:g} s; "
            "look for a hanging disk or device"
        )
    for root in roots:
        reap(root)


def _read_record(files: VmFiles) -> VmRecord | None:
    """The record; None where there is none yet, none any more, or none that can be understood."""
    try:
        return VmRecord.from_json(files.record.read_text(encoding="utf-8"))
    except (*NOT_THERE, ValueError, TypeError, KeyError):
        return None


def _command(files: VmFiles, record: VmRecord, verb: str, values: dict[str, float]) -> bool:
    """Tell the VM's supervisor something, which may just be starting; false when it does not answer in time."""
    give_up_at_s = time.monotonic() + _CONTROL_TIMEOUT_S
    while time.monotonic() < give_up_at_s and _alive(files):
        try:
            return _post(record, verb, values) == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            time.sleep(_CONTROL_RETRY_S)
    return False


def _post(record: VmRecord, verb: str, values: dict[str, float]) -> int:
    connection = http.client.HTTPConnection(record.address, record.control_port, timeout=_CONTROL_TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {record.control_token}", "Content-Type": "application/json"}
        connection.request("POST", f"/{verb}", json.dumps(values), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _with_address(record: VmRecord, files: VmFiles, *, taken: set[str]) -> VmRecord:
    """The record with a loopback address of its own, in 127.64.0.0/10, and ports that can be had there.

    The usual ports are kept where an address has them free; a server on this machine that listens on all
    addresses takes its port from every one of them, and then another port is used.
    """
    dice = Random(files.marker)
    address = ""
    for _ in range(_ADDRESS_TRIES):
        address = f"127.{dice.randrange(64, 128)}.{dice.randrange(256)}.{dice.randrange(1, 255)}"
        if address in taken:
            continue
        usual = (record.ssh_port, record.metadata_port, record.control_port, record.engine_port)
        ports = [free_port(address, port) for port in usual]
        if tuple(ports) == usual:
            return replace(record, address=address)
    return replace(
        record,
        address=address,
        ssh_port=ports[0],
        metadata_port=ports[1],
        control_port=ports[2],
        engine_port=ports[3],
    )


def free_port(address: str, wanted: int) -> int:
    """The wanted port if it can be had at this address, else some other one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, wanted))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            probe.bind((address, 0))
        return int(probe.getsockname()[1])
