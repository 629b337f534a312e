"""Commands over SSH that are cancelled in the worst moment."""

import asyncio
from typing import Any, cast

import asyncssh
import pytest

from hedgeserve.drivers.base import Machine
from hedgeserve.machines.ssh import Remote


class Ending:
    """A connection that ends when it is told to, and its one command with it."""

    def __init__(self) -> None:
        self.end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def run(self, command: str, **options: Any) -> Any:
        return await self.end


async def test_a_cancellation_is_not_lost_in_the_moment_in_which_the_connection_ends() -> None:
    """A session that ends takes its connection down and cancels whoever asks over it, in one turn of the loop."""
    connection = Ending()
    remote = Remote(cast(asyncssh.SSHClientConnection, connection), cast(Machine, None))

    async def ask() -> str:
        try:
            await remote.run("true")
        except asyncssh.Error:
            return "no news"  # what one who asks makes of a connection that is lost
        return "an answer"

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)  # it asks
    await asyncio.sleep(0)  # and so would a task of its own for the command
    connection.end.set_exception(asyncssh.ConnectionLost("aborted"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
