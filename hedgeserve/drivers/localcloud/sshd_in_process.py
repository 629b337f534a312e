"""asyncssh's server as the SSH server of a local VM, for machines on which ``sshd`` cannot run.

Commands, SFTP and forwarding to TCP ports, for the VM's one user and key; no terminals.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping

import asyncssh

from hedgeserve.drivers.localcloud.children import Children
from hedgeserve.drivers.localcloud.record import VmFiles, VmRecord

_CHUNK_BYTES = 65536


class _Door(asyncssh.SSHServer):
    """Lets the VM's user in with an authorized key, and nobody else."""

    def __init__(self, user: str, files: VmFiles) -> None:
        self._user = user
        self._files = files

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if username == self._user:
            self._connection.set_authorized_keys(str(self._files.authorized_keys))
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


async def listen(
    record: VmRecord, files: VmFiles, *, children: Children, env: Mapping[str, str]
) -> asyncssh.SSHAcceptor:
    """Listen where the record says; commands run through ``/bin/sh`` in the VM's home with ``env``."""

    async def run(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        await _run_command(process, files=files, children=children, env=env)

    return await asyncssh.listen(
        record.address,
        record.ssh_port,
        server_factory=lambda: _Door(record.user, files),
        server_host_keys=[str(files.host_key)],
        process_factory=run,
        sftp_factory=True,
        encoding=None,
        allow_pty=False,
        agent_forwarding=False,
        x11_forwarding=False,
        login_timeout=30,
        config=None,
    )


async def _run_command(
    process: "asyncssh.SSHServerProcess[bytes]", *, files: VmFiles, children: Children, env: Mapping[str, str]
) -> None:
    """Run one command from its start to its exit status, all of its output sent before."""
    argv = ["/bin/sh", "-c", process.command] if process.command is not None else ["/bin/sh"]
    child = children.start(argv, env=env, cwd=files.home, piped=True)
    feeding = asyncio.create_task(_feed(process, child), name="ssh-stdin")
    try:
        try:
            async with asyncio.TaskGroup() as streams:
                streams.create_task(_pump(child.stdout, process.stdout), name="ssh-stdout")
                streams.create_task(_pump(child.stderr, process.stderr), name="ssh-stderr")
        except* (OSError, asyncssh.Error):
            pass  # The client is gone; as with sshd, the command finds out when it next reads or writes.
        status = await children.exit_status(child)
    finally:
        feeding.cancel()
    if status < 0:
        process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
    else:
        process.exit(status)


async def _feed(process: "asyncssh.SSHServerProcess[bytes]", child: "subprocess.Popen[bytes]") -> None:
    """Hand the client's input and signals to the command; end its input when the client ends or is gone."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), child.stdin
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        while True:
            try:
                if not (data := await process.stdin.read(_CHUNK_BYTES)):
                    return
                writer.write(data)
                await writer.drain()
            except asyncssh.SignalReceived as received:
                os.kill(child.pid, signal.Signals[f"SIG{received.signal}"])
    except (OSError, KeyError, asyncssh.Error):
        return
    finally:
        transport.close()


async def _pump(source: object, sink: "asyncssh.SSHWriter[bytes]") -> None:
    """Send what the command prints until it, and whoever inherited its stream, has closed it."""
    reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), source
    )
    try:
        while data := await reader.read(_CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    finally:
        transport.close()
