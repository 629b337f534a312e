"""From a VM with SSH to a running engine: boot, driver, scratch, upload, install, start; each phase timed.

A phase that was done before (an adopted VM, a connection lost half-way) is found done and passed over; a long one
runs on while nobody is connected and is followed further. Secrets go into files that only the VM's user or root
can read, never into an argument list.
"""

import asyncio
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path, PurePosixPath

import asyncssh

from hedgeserve.drivers.base import Machine
from hedgeserve.engines.base import Engine, EngineCommand, EngineContext
from hedgeserve.errors import BootstrapError
from hedgeserve.machines.authority import EngineTls
from hedgeserve.machines.lastwords import BETWEEN, LAST_WORDS
from hedgeserve.machines.prepare import cloud_init_script, driver_script, scratch_script
from hedgeserve.machines.remotetask import Done, run_task
from hedgeserve.machines.ssh import Remote
from hedgeserve.machines.supervisor import (
    environment_file,
    exited_script,
    run_script,
    running_script,
    start_script,
    unit_text,
)

WATCHER = Path(__file__).with_name("watcher.py")
"""The program that runs on the VM and reports preemption notices."""

_LOG_TAIL_LINES = 5
_UPLOAD_TIMEOUT_S = 300.0
_CLOUD_INIT_TIMEOUT_S = 900.0
_SCRATCH_TIMEOUT_S = 300.0
_INSTALL_TIMEOUT_S = 1800.0
_START_TIMEOUT_S = 60.0
# What the script itself keeps to, and the time to say so.
_MARGIN_S = 90.0
_CERTIFICATE = "tls/engine.crt"
_KEY = "tls/engine.key"


class Bootstrap:
    """Brings one engine up on one VM.

    ``listen`` and ``port`` say where the engine is to answer, with ``tls`` by a certificate of ours;
    ``driver_wait_s`` bounds the wait for the driver of the VM's GPUs; ``timed`` is told the seconds of each
    phase, once. A VM on our own loopback interface (the ``local`` cloud) shares this machine and is not prepared:
    its disks and its systemd are this machine's; ``prepare`` overrules that.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        api_key: str,
        listen: str,
        port: int,
        timed: Callable[[str, float], None],
        tls: EngineTls | None = None,
        driver_wait_s: float = 600.0,
        prepare: bool | None = None,
    ) -> None:
        self._engine = engine
        self._api_key = api_key
        self._listen = listen
        self._port = port
        self._timed = timed
        self._tls = tls
        self._driver_wait_s = driver_wait_s
        self._prepare = prepare
        self._attempt = secrets.token_hex(8)
        self._told: set[str] = set()
        self._home = ""

    async def upload_watcher(self, remote: Remote) -> None:
        """Have the notice watcher on the VM, before anything that takes time.

        Raises:
            BootstrapError: It could not be written there.
        """
        workdir = await self._workdir(remote)
        async with self._upload_to(remote, workdir) as sftp:
            await sftp.put(str(WATCHER), f"{workdir}/{WATCHER.name}")

    async def start(self, remote: Remote) -> None:
        """Have the engine running (not: ready) when this returns. One that runs already is left as it is.

        Raises:
            BootstrapError: A phase failed; says which, with the last lines of its output.
        """
        workdir = await self._workdir(remote)
        if (await remote.run(running_script(workdir=workdir))).status == 0:
            return
        real = self._is_real(remote.machine)
        scratch = await self._make_ready(remote, workdir) if real else workdir
        context = EngineContext(
            self._listen,
            self._port,
            remote.machine.python,
            workdir,
            scratch=scratch,
            gpus=remote.machine.gpus,
            certfile=f"{workdir}/{_CERTIFICATE}" if self._tls is not None else "",
            keyfile=f"{workdir}/{_KEY}" if self._tls is not None else "",
        )
        try:
            command = self._engine.command(context, self._api_key)
        except ValueError as error:
            raise BootstrapError("start", str(error)) from None
        async with self._phase("upload"):
            await self._upload(remote, workdir, command, unit=real)
        script = self._engine.install_script(context)
        if script is not None:
            await self._task(remote, workdir, "install", script, _INSTALL_TIMEOUT_S)
        async with self._phase("start"):
            start = start_script(workdir=workdir, systemd=real)
            await _expect_success(remote, "start", "sh -s", start, _START_TIMEOUT_S)

    async def exited(self, remote: Remote) -> str:
        """Empty while the engine runs; after its end a sentence with its exit status and last words."""
        workdir = await self._workdir(remote)
        told = await remote.run(exited_script(workdir=workdir, lines=_LOG_TAIL_LINES))
        if told.status != 0 or not told.stdout.strip():
            return ""
        code, _, tail = told.stdout.partition("\n")
        words = BETWEEN.join(line.strip() for line in tail.splitlines() if line.strip())
        return f"the engine exited with status {code.strip()}" + (f"{LAST_WORDS}{words}" if words else "")

    async def log_tail(self, remote: Remote, lines: int) -> str:
        """The last lines of the engine's log on the VM."""
        workdir = shlex.quote(await self._workdir(remote))
        return (await remote.run(f"tail -n {int(lines)} {workdir}/engine.log")).stdout

    async def watcher_path(self, remote: Remote) -> str:
        """Where the notice watcher lies on the VM."""
        return f"{await self._workdir(remote)}/{WATCHER.name}"

    async def _workdir(self, remote: Remote) -> str:
        workdir = remote.machine.workdir
        if PurePosixPath(workdir).is_absolute():
            return workdir
        if not self._home:
            told = await remote.run('printf %s "$HOME"')
            if not told.stdout.startswith("/"):
                raise BootstrapError("upload", f"the VM's home directory is unknown: {told.last_words}")
            self._home = told.stdout
        return f"{self._home}/{workdir}"

    def _is_real(self, machine: Machine) -> bool:
        if self._prepare is not None:
            return self._prepare
        return not ip_address(machine.address or "").is_loopback

    async def _make_ready(self, remote: Remote, workdir: str) -> str:
        """Wait for the boot's end and the GPUs' driver; returns the directory for weights and caches."""
        machine = remote.machine
        wait_s = self._driver_wait_s
        boot = cloud_init_script(limit_s=_CLOUD_INIT_TIMEOUT_S - _MARGIN_S)
        await self._task(remote, workdir, "cloud_init", boot, _CLOUD_INIT_TIMEOUT_S)
        if self._engine.needs_gpu and machine.gpus:
            driver = driver_script(gpus=machine.gpus, limit_s=wait_s)
            await self._task(remote, workdir, "driver", driver, wait_s + _MARGIN_S)
        disk = scratch_script(workdir=workdir, dialect=machine.dialect)
        done = await self._task(remote, workdir, "scratch", disk, _SCRATCH_TIMEOUT_S)
        return done.last_lines[-1] if done.last_lines else workdir

    async def _task(self, remote: Remote, workdir: str, name: str, script: str, timeout_s: float) -> Done:
        done = await run_task(remote, name, script, workdir=workdir, attempt=self._attempt, timeout_s=timeout_s)
        self._tell(name, done.seconds)
        return done

    async def _upload(self, remote: Remote, workdir: str, command: EngineCommand, *, unit: bool) -> None:
        private = {**command.env, **command.secret_env}
        async with self._upload_to(remote, workdir) as sftp:
            for upload in self._engine.uploads():
                path = PurePosixPath(workdir) / upload.name
                await sftp.makedirs(str(path.parent), exist_ok=True)
                await sftp.put(str(upload.source), str(path))
            await _write(sftp, f"{workdir}/engine.env", environment_file(private), 0o600)
            await _write(sftp, f"{workdir}/api_key", self._api_key, 0o600)
            await _write(sftp, f"{workdir}/run.sh", run_script(command), 0o700)
            if unit:
                text = unit_text(command, workdir=workdir, user=remote.machine.ssh_user)
                await _write(sftp, f"{workdir}/engine.service", text, 0o600)
            if self._tls is not None:
                await sftp.makedirs(f"{workdir}/tls", exist_ok=True)
                await _write(sftp, f"{workdir}/{_CERTIFICATE}", self._tls.certificate.decode(), 0o600)
                await _write(sftp, f"{workdir}/{_KEY}", self._tls.key.decode(), 0o600)

    @asynccontextmanager
    async def _upload_to(self, remote: Remote, workdir: str) -> AsyncIterator[asyncssh.SFTPClient]:
        try:
            async with asyncio.timeout(_UPLOAD_TIMEOUT_S), remote.sftp() as sftp:
                await sftp.makedirs(workdir, exist_ok=True)
                yield sftp
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, ConnectionError, TimeoutError):
            raise  # the connection's trouble, not the VM's: it is made again
        except (asyncssh.SFTPError, OSError) as error:
            raise BootstrapError("upload", f"writing to {workdir} on the VM failed: {error}") from None

    @asynccontextmanager
    async def _phase(self, name: str) -> AsyncIterator[None]:
        begun_s = time.monotonic()
        yield
        self._tell(name, time.monotonic() - begun_s)

    def _tell(self, name: str, seconds: float) -> None:
        if name not in self._told:
            self._told.add(name)
            self._timed(name, seconds)


async def _write(sftp: asyncssh.SFTPClient, path: str, text: str, mode: int) -> None:
    # The mode is set while the file is still empty, so that nobody else can read what comes.
    async with sftp.open(path, "w", asyncssh.SFTPAttrs(permissions=mode)) as file:
        await file.setstat(asyncssh.SFTPAttrs(permissions=mode))
        await file.write(text)


async def _expect_success(remote: Remote, phase: str, command: str, stdin: str, timeout_s: float) -> None:
    try:
        told = await remote.run(command, stdin=stdin, timeout_s=timeout_s)
    except TimeoutError:
        raise BootstrapError(phase, f"it did not end within {timeout_s:g} s") from None
    if told.status != 0:
        raise BootstrapError(phase, f"it ended with status {told.status}: {told.last_words}")
