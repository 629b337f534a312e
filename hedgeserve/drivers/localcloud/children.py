"""The children of a local VM's supervisor, its own and the orphans that it adopts, reaped in one place."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Children:
    """Starts processes and reaps every child of this process, so that none stays a zombie.

    One reaper for all: asyncio's own subprocesses wait for single children and would quarrel with whoever
    collects the orphans. Belongs to the running event loop.
    """

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, piped: bool
    ) -> "subprocess.Popen[bytes]":
        """Start a process: with pipes for its three streams, or with nothing to read and our own output."""
        process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            bufsize=0,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else None,
            stderr=subprocess.PIPE if piped else None,
        )
        # No await since the fork: the reaper, a callback of this loop, cannot have run in between.
        self._exits[process.pid] = asyncio.get_running_loop().create_future()
        return process

    async def exit_status(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait for the end of a process that :meth:`start` started; negative: the signal that ended it."""
        status = await asyncio.shield(self._exits[process.pid])
        del self._exits[process.pid]
        process.returncode = status
        return status

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            waiter = self._exits.get(pid)
            if waiter is not None and not waiter.done():
                waiter.set_result(os.waitstatus_to_exitcode(status))
