"""A VM as far as SSH goes, whose programs are the test's to choose: a real SSH server, in a process of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hedgeserve.drivers.base import Dialect, Machine, MachineState
from hedgeserve.drivers.localcloud import sshd_in_process
from hedgeserve.drivers.localcloud.children import Children
from hedgeserve.drivers.localcloud.directory import free_port
from hedgeserve.drivers.localcloud.processes import become_subreaper
from hedgeserve.drivers.localcloud.record import VmFiles, VmRecord
from hedgeserve.machines.keys import SshKeys
from hedgeserve.replica import Market, ZoneId
from tests.conftest import processes_of
from tests.vmrecord import record

NAME = "s-1"

# What a cloud VM has and this machine's own must not be used in its place. `sudo` moves the system's directories
# into the VM's; that it is needed is what `id` says.
STAND_INS = {
    "id": "echo 1000",
    "sudo": """
        while [ "${1#-}" != "$1" ]; do shift; done
        moved=
        for word in "$@"; do
            case $word in /opt/*|/mnt/*|/run/*) word=$ROOT$word; mkdir -p "$(dirname "$word")" ;; esac
            moved="$moved '$word'"
        done
        echo "$@" >> "$ROOT/sudo.log"
        eval "exec $moved"
    """,
    "chown": "exit 0",
    "mountpoint": "exit 1",
    "lsblk": "exit 0",
    "systemctl": "exit 1",
    "cloud-init": 'echo "$@" >> "$ROOT/cloud-init.log"',
}


@dataclass(frozen=True)
class SshVm:
    """A VM that answers by SSH; ``programs`` come first in its PATH, and its files are under ``root``."""

    machine: Machine
    keys: SshKeys
    root: Path

    @property
    def workdir(self) -> Path:
        """Where the bootstrap works."""
        return self.root / "home" / "hedgeserve"

    def program(self, name: str, script: str) -> None:
        """Have this POSIX shell script as a program."""
        path = self.root / "bin" / name
        draft = path.with_suffix(".draft")
        draft.write_text(f"#!/bin/sh\nROOT='{self.root}'\n{script}\n")
        draft.chmod(0o755)
        draft.rename(path)

    def lines(self, name: str) -> list[str]:
        """The lines of a file under the root."""
        path = self.root / name
        return path.read_text().splitlines() if path.exists() else []


@contextmanager
def ssh_vm(directory: Path, *, gpus: int = 0, dialect: Dialect = Dialect.AWS) -> Iterator[SshVm]:
    """A VM under ``directory``; when it is left, all of its processes are killed."""
    root = directory / "vm"
    (root / "home").mkdir(parents=True)
    (root / "bin").mkdir()
    keys = SshKeys(directory / "keys")
    files = VmFiles(root)
    files.host_key.write_text(asyncio.run(keys.make_host_key(NAME)))
    files.authorized_keys.write_text(keys.authorized_key + "\n")
    told = replace(
        record(dialect), address="127.0.0.1", ssh_port=free_port("127.0.0.1", 0), name=NAME, user="someone"
    )
    files.record.write_text(told.to_json())
    machine = Machine(
        id="t/1",
        name=NAME,
        zone=ZoneId("aws/east/a"),
        market=Market.SPOT,
        instance_type="g6.xlarge",
        state=MachineState.RUNNING,
        tags={},
        launched_at=datetime.now(UTC),
        address=told.address,
        ssh_port=told.ssh_port,
        ssh_user=told.user,
        dialect=dialect,
        python=sys.executable,
        gpus=gpus,
    )
    vm = SshVm(machine, keys, root)
    for name, script in STAND_INS.items():
        vm.program(name, script)
    process = subprocess.Popen([sys.executable, "-m", "tests.sshvm", str(root)], stdin=subprocess.DEVNULL)
    try:
        yield vm
    finally:
        process.kill()
        process.wait()
        while left := processes_of(root):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


async def _serve(files: VmFiles) -> None:
    told = VmRecord.from_json(files.record.read_text())
    env = {
        "HOME": str(files.home),
        "PATH": f"{files.root}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    await sshd_in_process.listen(told, files, children=Children(), env=env)
    await asyncio.Event().wait()


if __name__ == "__main__":
    become_subreaper()
    asyncio.run(_serve(VmFiles(Path(sys.argv[1]))))
