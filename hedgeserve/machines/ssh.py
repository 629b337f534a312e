"""One SSH connection to one VM: commands, files, a long-running watcher and, where wanted, the engine's port.

The host key is known beforehand (we made it); a server that presents another is refused.
"""

import asyncio
import getpass
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncssh

from hedgeserve.drivers.base import Machine
from hedgeserve.errors import BootstrapError
from hedgeserve.machines.keys import SshKeys

asyncssh.set_log_level("ERROR")

try:
    getpass.getuser()
except (KeyError, OSError):  # a container's user without a name; asyncssh asks for one, though ours never matters
    os.environ.setdefault("LOGNAME", "hedgeserve")

_RETRY_S = 0.25
_KEEPALIVE_S = 5.0
_KEEPALIVE_COUNT = 3
_LOGIN_TIMEOUT_S = 15.0
_COMMAND_TIMEOUT_S = 60.0
_LAST_LINES = 5
_STRANGER_S = 120.0
"""For so long after the first try a VM may present another host key than ours, and is not spoken to."""

Unreachable = (OSError, asyncssh.Error, TimeoutError)
"""What a VM that is not there (yet, or any more) makes asyncssh raise."""


@dataclass(frozen=True, slots=True)
class Output:
    """How a command on a VM ended.

    What it answered (``stdout``) is kept apart from what was said beside it: a login shell's start-up files may
    grumble on ``stderr``, and that must not be taken for an answer.
    """

    status: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The last lines of all it printed, in one."""
        lines = [line.strip() for line in (self.stdout + "\n" + self.stderr).splitlines() if line.strip()]
        return " | ".join(lines[-_LAST_LINES:])


@dataclass(frozen=True, slots=True)
class Remote:
    """A live connection; every call has a deadline and raises one of :data:`Unreachable` when it is lost."""

    connection: asyncssh.SSHClientConnection
    machine: Machine

    async def run(
        self, command: str, *, stdin: str | None = None, timeout_s: float = _COMMAND_TIMEOUT_S
    ) -> Output:
        """Run a shell command to its end."""
        # Not wait_for: before Python 3.12 it loses a cancellation that comes just as the command ends.
        async with asyncio.timeout(timeout_s):
            done = await self.connection.run(command, input=stdin, encoding="utf-8", errors="replace")
        if done.exit_status is None:  # neither a status nor a signal came: the VM itself went away
            raise ConnectionResetError("the connection ended before the command did")
        return Output(done.exit_status, str(done.stdout or ""), str(done.stderr or ""))

    async def lines(
        self, command: str, *, input_to: Callable[[Callable[[str], None]], None] | None = None
    ) -> AsyncGenerator[str, None]:
        """What a long-running command answers, line by line; ends with the command or the connection.

        ``input_to`` is given, once the command runs, what writes to its input.
        """
        process = await self.connection.create_process(
            command, stderr=asyncssh.DEVNULL, encoding="utf-8", errors="replace"
        )
        if input_to is not None:
            input_to(process.stdin.write)
        try:
            async for line in process.stdout:
                yield line
        finally:
            # Not waited for: a server may keep the channel open for as long as the command likes to live.
            process.close()

    @asynccontextmanager
    async def sftp(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """A file-transfer session."""
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            client = await self.connection.start_sftp_client()
        try:
            yield client
        finally:
            client.exit()  # not waited for: it ends with the connection at the latest

    async def forward(self, host: str, port: int, *, local_port: int = 0) -> int:
        """Make ``host:port``, as seen from the VM, answer on a loopback port of ours; returns that port."""
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            listener = await self.connection.forward_local_port("127.0.0.1", local_port, host, port)
        return listener.get_port()


@asynccontextmanager
async def connect(machine: Machine, keys: SshKeys, *, timeout_s: float) -> AsyncIterator[Remote]:
    """A connection to a VM whose SSH server may not answer yet: tried again until ``timeout_s`` has passed.

    Raises:
        BootstrapError: It did not answer in time (the last refusal is in the text), or it went on presenting a
            host key that is not the one we gave it.
    """
    host_key = await keys.host_key(machine.name)
    if host_key is None:
        raise BootstrapError("ssh", f"no host key is known for {machine.name}, so its identity cannot be checked")
    connection = await _dial(machine, keys, host_key, timeout_s)
    try:
        yield Remote(connection, machine)
    finally:
        connection.abort()


async def _dial(
    machine: Machine, keys: SshKeys, host_key: asyncssh.SSHKey, timeout_s: float
) -> asyncssh.SSHClientConnection:
    last, loop = "nothing was tried", asyncio.get_running_loop()
    stranger_until_s = loop.time() + _STRANGER_S
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    async with asyncio.timeout(_LOGIN_TIMEOUT_S):
                        return await asyncssh.connect(
                            machine.address or "",
                            machine.ssh_port,
                            username=machine.ssh_user,
                            client_keys=[keys.client],
                            known_hosts=([host_key], [], []),
                            agent_path=None,
                            config=None,
                            keepalive_interval=_KEEPALIVE_S,
                            keepalive_count_max=_KEEPALIVE_COUNT,
                        )
                except asyncssh.HostKeyNotVerifiable as error:
                    # Nothing was trusted. Where an image's own key is replaced late in the boot, ours comes yet.
                    last = f"{machine.address} presented a host key that is not {machine.name}'s: {error}"
                    if loop.time() > stranger_until_s:
                        raise BootstrapError("ssh", last) from None
                except Unreachable as error:
                    last = str(error) or type(error).__name__
                await asyncio.sleep(_RETRY_S)
    except TimeoutError:
        where = f"{machine.address}:{machine.ssh_port}"
        raise BootstrapError("ssh", f"{where} did not let us in within {timeout_s:g} s (last: {last})") from None
