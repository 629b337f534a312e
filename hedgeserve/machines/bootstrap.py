"""From a VM with SSH to a running engine: upload, install, start; each phase timed, all of it idempotent.

A phase that was done before (an adopted VM, a connection lost half-way) is found done and passed over. Secrets
go into files that only the VM's user can read, never into an argument list.
"""

import asyncio
import shlex
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import asyncssh

from hedgeserve.engines.base import Engine, EngineCommand, EngineContext
from hedgeserve.errors import BootstrapError
from hedgeserve.machines.ssh import Remote

WATCHER = Path(__file__).with_name("watcher.py")
"""The program that runs on the VM and reports preemption notices."""

_LOG_TAIL_LINES = 5
_UPLOAD_TIMEOUT_S = 300.0
_INSTALL_TIMEOUT_S = 1800.0
_START_TIMEOUT_S = 60.0

# Started through a file so that the exit status outlives the shell that saw it; `setsid` so that the engine
# outlives the SSH session. The pid file is written before the engine is executed: a second start finds it.
_RUN = """\
cd "$(dirname "$0")" || exit 1
rm -f engine.exit
set -a; . ./engine.env; set +a
{command}
echo $? > engine.exit
"""
_START = """\
cd {workdir} || exit 1
if [ -f engine.pid ] && kill -0 "$(cat engine.pid)" 2>/dev/null; then echo running; exit 0; fi
setsid sh ./run.sh > engine.log 2>&1 < /dev/null &
echo $! > engine.pid
echo started
"""


class Bootstrap:
    """Brings one engine up on one VM.

    ``listen`` and ``port`` say where the engine is to answer; ``timed`` is told the seconds of each phase.
    """

    def __init__(
        self, engine: Engine, *, api_key: str, listen: str, port: int, timed: Callable[[str, float], None]
    ) -> None:
        self._engine = engine
        self._api_key = api_key
        self._listen = listen
        self._port = port
        self._timed = timed

    async def upload_watcher(self, remote: Remote) -> None:
        """Have the notice watcher on the VM, before anything that takes time.

        Raises:
            BootstrapError: It could not be written there.
        """
        workdir = await self._workdir(remote)
        async with self._upload_to(remote, workdir) as sftp:
            await sftp.put(str(WATCHER), f"{workdir}/{WATCHER.name}")

    async def start(self, remote: Remote) -> None:
        """Have the engine running (not: ready) when this returns.

        Raises:
            BootstrapError: A phase failed; says which, with the last lines of its output.
        """
        workdir = await self._workdir(remote)
        if await self._running(remote, workdir):
            return
        context = EngineContext(self._listen, self._port, remote.machine.python, workdir)
        command = self._engine.command(context, self._api_key)
        async with self._phase("upload"):
            await self._upload(remote, workdir, command)
        script = self._engine.install_script(context)
        if script is not None:
            async with self._phase("install"):
                await _expect_success(
                    remote, "install", f"cd {shlex.quote(workdir)} && sh -s", script, _INSTALL_TIMEOUT_S
                )
        async with self._phase("start"):
            start = _START.format(workdir=shlex.quote(workdir))
            await _expect_success(remote, "start", "sh -s", start, _START_TIMEOUT_S)

    async def exited(self, remote: Remote) -> str:
        """Empty while the engine runs; after its end a sentence with its exit status and last words."""
        workdir = shlex.quote(await self._workdir(remote))
        told = await remote.run(
            f"cd {workdir} && if [ -f engine.exit ]; then cat engine.exit; tail -n {_LOG_TAIL_LINES} engine.log; "
            'elif ! kill -0 "$(cat engine.pid)" 2>/dev/null; then echo unknown; fi'
        )
        if told.status != 0 or not told.stdout.strip():
            return ""
        code, _, tail = told.stdout.partition("\n")
        words = " | ".join(line.strip() for line in tail.splitlines() if line.strip())
        return f"the engine exited with status {code.strip()}" + (f"; its last words: {words}" if words else "")

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
        told = await remote.run('printf %s "$HOME"')
        if not told.stdout.startswith("/"):
            raise BootstrapError("upload", f"the VM's home directory is unknown: {told.last_words}")
        return f"{told.stdout}/{workdir}"

    async def _running(self, remote: Remote, workdir: str) -> bool:
        told = await remote.run(
            f'cd {shlex.quote(workdir)} && test -f engine.pid && kill -0 "$(cat engine.pid)" 2>/dev/null'
        )
        return told.status == 0

    async def _upload(self, remote: Remote, workdir: str, command: EngineCommand) -> None:
        private = {**command.env, **command.secret_env}
        environment = "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(private.items()))
        run = _RUN.format(command=shlex.join(command.argv))
        async with self._upload_to(remote, workdir) as sftp:
            for upload in self._engine.uploads():
                path = PurePosixPath(workdir) / upload.name
                await sftp.makedirs(str(path.parent), exist_ok=True)
                await sftp.put(str(upload.source), str(path))
            await _write(sftp, f"{workdir}/engine.env", environment, 0o600)
            await _write(sftp, f"{workdir}/api_key", self._api_key, 0o600)
            await _write(sftp, f"{workdir}/run.sh", run, 0o700)

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
        self._timed(name, time.monotonic() - begun_s)


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
