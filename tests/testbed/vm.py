"""A VM in miniature: namespaces with a real ``sshd`` as their first process, and a cable that can be cut.

It has an address on a network of two (it and this process's namespace), a file system of its own, users, a host
key and files as its user-data says, and at 169.254.169.254 the metadata service of its cloud.
"""

import asyncio
import ctypes
import json
import os
import shutil
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from hedgeserve.drivers.base import Dialect
from hedgeserve.drivers.localcloud.metadata import MetadataState, metadata_app
from hedgeserve.drivers.localcloud.record import VmRecord
from hedgeserve.replica import Market, ZoneId
from tests.clouds.host import GrantedVm

_HERE = Path(__file__).parent
_CLONE_NEWNET = 0x40000000
_IP_FREEBIND = 15
_libc = ctypes.CDLL(None, use_errno=True)

NOTICE_S = {Dialect.AWS: 120.0, Dialect.GCP: 30.0, Dialect.AZURE: 30.0}


class BootError(Exception):
    """A VM did not come up; the text holds what its console says."""


class NamespaceVm:
    """One VM; ``ended`` is told its name when it ends by itself (and not by its cloud or its test)."""

    def __init__(
        self, granted: GrantedVm, *, number: int, directory: Path, ended: Callable[[str], None] = lambda _: None
    ) -> None:
        self.granted = granted
        self.name = granted.name
        low, high = number * 4 % 256, number * 4 // 256
        self._gateway, self.address = f"10.77.{high}.{low + 1}", f"10.77.{high}.{low + 2}"
        self._mac = f"02:77:00:00:{number // 256:02x}:{number % 256:02x}"
        self._cable = f"vm{number}"
        self._directory = directory / f"{number}-{granted.name}"
        self._ended = ended
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._network = -1
        self._runner: web.AppRunner | None = None
        self._begun = False
        self._booted = asyncio.Event()
        self.metadata = MetadataState(record=_record(granted, self.address))
        self.wanted = True

    @property
    def running(self) -> bool:
        """Whether its first process lives."""
        return self._process is not None and self._process.returncode is None

    async def boot(self) -> None:
        """Return once the VM starts its SSH server.

        Raises:
            BootError: It did not get that far.
        """
        self._begun = True
        try:
            await self._boot()
        finally:
            self._booted.set()
        if not self.wanted:
            await self.power_off()

    async def _boot(self) -> None:
        self._directory.mkdir(parents=True)
        for file in ("firstboot.py", "boot.sh"):
            shutil.copy(_HERE / file, self._directory)
        seed = {
            "name": self.name,
            "user_data": self.granted.user_data,
            "authorized_key": self.granted.authorized_key,
            "ssh_user": self.granted.ssh_user,
        }
        (self._directory / "seed.json").write_text(json.dumps(seed))
        namespaces = ["--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        script = ["sh", "boot.sh", str(self._directory), self.address, self._gateway]
        with (self._directory / "console").open("wb") as console:
            self._process = await asyncio.create_subprocess_exec(
                "unshare", *namespaces, *script,
                cwd=self._directory, stdin=PIPE, stdout=PIPE, stderr=console, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        if await self._process.stdout.readline() != b"here\n":
            raise BootError(f"{self.name}: the namespaces could not be made")
        self._network = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY)
        await _ip(
            f"link add {self._cable} type veth peer name eth0 address {self._mac} netns {self._process.pid}",
            f"addr add {self._gateway}/30 dev {self._cable}",
            f"link set {self._cable} up",
            # Known for ever: when the VM vanishes, what is sent to it is lost without a word.
            f"neigh replace {self.address} lladdr {self._mac} dev {self._cable} nud permanent",
        )
        await self._serve_metadata()
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()
        self._watch = asyncio.create_task(self._wait_for_end(), name=f"{self.name} runs")

    def console(self) -> str:
        """What the VM printed so far."""
        with suppress(OSError):
            return (self._directory / "console").read_text(errors="replace")
        return ""

    # Trouble

    async def cut_cable(self) -> None:
        """From now on no packet comes in or goes out; nobody is told."""
        await self._set_cable("down")

    async def mend_cable(self) -> None:
        """The network works again."""
        await self._set_cable("up")

    async def vanish(self) -> None:
        """End without a word: no connection is closed, nothing is refused, all is silence."""
        self.wanted = False
        if self._begun:
            await self._booted.wait()
        if self.running:
            await self.cut_cable()  # first, or the dying kernel would say good-bye to everybody
        await self._kill()

    async def preempt(self, notice_s: float | None = None) -> None:
        """Announce the end in the metadata service, then vanish at that time, or when the VM approves of it."""
        if notice_s is None:
            notice_s = NOTICE_S[Dialect(self.granted.cloud)]
        self.metadata.announce(now=datetime.now(UTC), notice_s=notice_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(notice_s):
                await self.metadata.approved.wait()
        await self.vanish()

    def freeze(self) -> None:
        """Stop every process; the network goes on answering for them as far as a kernel can."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them run on."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    # The end

    async def power_off(self) -> None:
        """End as a VM does that its cloud takes away: connections are closed, then there is silence."""
        self.wanted = False
        await self._kill()
        if self._network >= 0:
            with suppress(RuntimeError):
                await self.cut_cable()

    async def remove(self) -> None:
        """Take away all that is left of it."""
        await self.power_off()
        if self._watch is not None:
            await self._watch
        if self._runner is not None:
            await self._runner.cleanup()
        if self._network >= 0:
            os.close(self._network)
            self._network = -1
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _kill(self) -> None:
        if self._begun:
            await self._booted.wait()
        if self._process is None:
            return
        for pid in self._pids():  # the first is the VM's process 1, with which all others end
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            break
        await self._process.wait()

    async def _wait_for_end(self) -> None:
        assert self._process is not None
        await self._process.wait()
        if self.wanted:
            self._ended(self.name)

    async def _set_cable(self, state: str) -> None:
        await _run("nsenter", f"--net=/proc/self/fd/{self._network}", "ip", "link", "set", "eth0", state,
                   fds=(self._network,))  # fmt: skip

    async def _serve_metadata(self) -> None:
        listener = await asyncio.to_thread(_socket_in, self._network, ("169.254.169.254", 80))
        self._runner = web.AppRunner(
            metadata_app(self.metadata), access_log=None, handle_signals=False, shutdown_timeout=0.05
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    def _pids(self) -> list[int]:
        """The processes of the VM, its first one first."""
        found: list[int] = []
        waiting = [self._process.pid] if self._process is not None and self._process.returncode is None else []
        while waiting:
            pid = waiting.pop(0)
            found.append(pid)
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())
        return found[1:]  # without `unshare`, which is not inside


def _socket_in(network: int, address: tuple[str, int]) -> socket.socket:
    """A listening socket in another network namespace, where it stays. For a thread: only that one goes there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.setns(network, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # the address comes a moment later
        listener.bind(address)
        listener.listen(64)
        listener.setblocking(False)
        return listener
    finally:
        _libc.setns(home, _CLONE_NEWNET)
        os.close(home)


async def _ip(*lines: str) -> None:
    await _run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


async def _run(*argv: str, stdin: str = "", fds: tuple[int, ...] = ()) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.STDOUT, pass_fds=fds
    )
    told, _ = await process.communicate(stdin.encode())
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with status {process.returncode}: {told.decode()}")


def _record(granted: GrantedVm, address: str) -> VmRecord:
    """What the metadata service says of the VM."""
    dialect = Dialect(granted.cloud)
    zone = granted.zone.rpartition("/")[2]
    if dialect is Dialect.AWS:
        place = f"{zone[:-1]}/{zone[-1:]}"
    elif dialect is Dialect.GCP:
        place = zone.rpartition("-")[0] + "/" + zone.rpartition("-")[2]
    else:
        place = f"{granted.zone.partition('/')[0]}/{zone}"
    return VmRecord(
        name=granted.name,
        service="",
        token="",
        tags=granted.tags,
        zone=ZoneId(f"{granted.cloud}/{place}"),
        market=Market.SPOT if granted.spot else Market.ON_DEMAND,
        instance_type="",
        launched_at=datetime.now(UTC),
        address=address,
        ssh_port=22,
        metadata_port=80,
        control_port=0,
        engine_port=8000,
        dialect=dialect,
        user=granted.ssh_user,
        python="python3",
        sshd=None,
        boot_time_s=0.0,
        notice_s=NOTICE_S[dialect],
        lease_s=0.0,
        control_token="",
    )
