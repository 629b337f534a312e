"""The loop over all crash points: a controller dies at its n-th write, the next one finds what it left.

For every n, until a run comes to its end without reaching it: afterwards exactly the wanted VMs are there, none
was launched twice for one intent, and taking the service down leaves nothing.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.clouds.host import NoHost
from tests.conftest import eventually
from tests.testbed.controller import Order
from tests.testbed.worlds import World


class NeverBooting(NoHost):
    """VMs on paper that get no address, so that nobody tries to reach them."""

    def address(self, name: str) -> str | None:
        """None for any."""
        return None


class Controllers:
    """Starts controllers, one at a time, and listens to them."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def start(self, order: Order) -> int:
        """The process id of a new one."""
        assert self._process.stdin is not None
        self._process.stdin.write(order.line())
        return int((await self.hear())["pid"])

    async def hear(self) -> dict[str, Any]:
        """What the present one says next: that it ``settled``, how many ``writes`` it made, that it ``exited``."""
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            told: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return told


@asynccontextmanager
async def controllers() -> AsyncIterator[Controllers]:
    """A process that forks them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.testbed.controller", stdin=PIPE, stdout=PIPE
    )
    try:
        yield Controllers(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


async def crash_everywhere(
    directory: Path,
    world: World,
    toml: str,
    *,
    before: bool,
    state: str,
    count: int,
    table: str = "",
    step: int = 1,
    settled: Callable[[], None] = lambda: None,
) -> int:
    """Crash at every ``step``-th write (of a table); returns how many crash points there were.

    ``state`` is how far ``count`` replicas must come before they are taken down again; ``settled`` is called at
    each time that a second controller has come so far.
    """
    model = directory / "model.toml"
    model.write_text(toml)
    points = 0
    async with controllers() as forked:
        while True:
            crash_at = 1 + points * step
            where = f"{'before' if before else 'after'} write {crash_at}"
            shutil.rmtree(directory / "state", ignore_errors=True)
            (directory / "controller.log").write_text("")
            world.granted().clear()
            doomed = Order(
                str(model), dict(world.environ), crash_at, before, table=table, count=count, state=state
            )
            died = await _run(forked, doomed, lambda: None, where)
            if died:
                points += 1

            def right(where: str = where) -> None:
                assert sorted(world.vms()) == sorted(set(world.vms())), where
                assert len(world.vms()) == count, f"{where}: {world.vms()}"
                settled()

            survivor = Order(str(model), dict(world.environ), count=count, state=state)
            if died:
                # The last crash may have come when all had been taken down; then the next one launches anew.
                assert not await _run(forked, survivor, right, where), where
            log = (directory / "controller.log").read_text()
            await eventually(lambda: not world.left(), within_s=5, what=f"{where}: {world.left()}\n{log}")
            again = {name: times for name, times in world.granted().items() if times > 1}
            assert not again, f"{where}: launched twice: {again}\n{log}"
            if not died:
                return points


async def _run(forked: Controllers, order: Order, right: Callable[[], None], where: str) -> bool:
    """One controller's life: until it crashes (true), or until it has settled and was taken down."""
    pid = await forked.start(order)
    while True:
        told = await forked.hear()
        if "settled" in told:
            right()
            os.kill(pid, signal.SIGTERM)
        if "exited" in told:
            crashed = told["exited"] == -signal.SIGKILL
            log = Path(order.model).with_name("controller.log").read_text()
            assert crashed or told["exited"] == 0, f"{where}: it ended with status {told['exited']}:\n{log}"
            return crashed
