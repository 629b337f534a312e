"""A controller as a process of its own that kills itself at a chosen write of its journal.

    python -m tests.testbed.controller

reads orders from its input, one JSON line each, and forks a controller for each: a fork of a process that has
everything imported is there in milliseconds, which is what makes a loop over all crash points bearable. What a
controller says, and its end, is told in JSON lines on the output. It does all that ``hedgeserve serve`` does, with
:class:`~hedgeserve.core.Service`; SIGTERM has it take everything down.
"""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from hedgeserve import core
from hedgeserve.console.log import configure_logging
from hedgeserve.drivers import clearance, gcp
from hedgeserve.drivers.azure import AzureDriver
from hedgeserve.spec import Spec
from hedgeserve.specfile import load_spec
from hedgeserve.store import Store
from tests.conftest import eventually


@dataclass(frozen=True)
class Order:
    """Which controller to start; ``crash_at`` 0 lets it live. ``table``: count only writes to this table."""

    model: str
    environ: dict[str, str] = field(default_factory=dict)
    crash_at: int = 0
    before: bool = False
    table: str = ""
    count: int = 1
    state: str = "ready"

    def line(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"


class MortalStore(Store):
    """Kills its process just before or just after its n-th write."""

    order: ClassVar[Order]
    writes: ClassVar[int] = 0

    async def _run(self, sql: str, *values: object) -> Sequence[sqlite3.Row]:
        verb, *rest = sql.split(maxsplit=3)
        writing = verb in ("INSERT", "UPDATE", "DELETE") and self.order.table in " ".join(rest[:2])
        MortalStore.writes += writing
        now = writing and self.order.crash_at == self.writes
        if now and self.order.before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return await super()._run(sql, *values)
        finally:  # also where whoever wrote has been cancelled meanwhile
            if now:
                os.kill(os.getpid(), signal.SIGKILL)


async def control(spec: Spec, order: Order) -> None:
    """Serve until SIGTERM; say when as many replicas as wanted are as far as wanted."""
    down = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, down.set)
    async with core.Service(spec, environ=order.environ) as service:
        await eventually(lambda: [r["state"] for r in service.status()["replicas"]] == [order.state] * order.count)
        say(settled=[replica["id"] for replica in service.status()["replicas"]])
        await down.wait()
        service.request_down()
    say(writes=MortalStore.writes)


def say(**facts: object) -> None:
    """One line, whole."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def main() -> None:
    """Fork for each order. The clouds are fakes: they are asked again in milliseconds."""
    gcp._POLLS_S = (0.02,)
    AzureDriver.least_pause_s = 0.02
    clearance._FIRST_PAUSE_S = 0.05
    for line in sys.stdin:
        order = Order(**json.loads(line))
        child = os.fork()
        if child == 0:
            os.environ.update(order.environ)
            MortalStore.order = order
            core.Store = MortalStore  # type: ignore[misc]
            with open(Path(order.model).with_name("controller.log"), "a") as log:
                os.dup2(log.fileno(), 2)
                configure_logging(log, as_json=False, level="info")
                with contextlib.redirect_stdout(log):
                    asyncio.run(control(load_spec(order.model, order.environ), order))
            os._exit(0)
        say(pid=child)
        say(exited=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
