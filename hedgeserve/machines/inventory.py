"""What the clouds say there is, asked regularly by one task per cloud and shared by all who need it."""

import asyncio
from collections.abc import Mapping

import structlog

from hedgeserve.drivers.base import Driver, Machine, MachineState
from hedgeserve.errors import CloudError

_ENDED = (MachineState.STOPPING, MachineState.STOPPED)
_log = structlog.get_logger("hedgeserve.inventory")


class Inventory:
    """The last answer of each cloud's ``list``.

    A VM counts as vanished only by an answer that began *after* the question was asked: an older one may not
    have known it yet.
    """

    def __init__(self, drivers: Mapping[str, Driver], *, call_timeout_s: float) -> None:
        self._drivers = drivers
        self._call_timeout_s = call_timeout_s
        self._machines: dict[str, dict[str, Machine]] = {cloud: {} for cloud in drivers}
        self._rounds = dict.fromkeys(drivers, 0)
        self._begun = dict.fromkeys(drivers, 0)
        self._ask = {cloud: asyncio.Event() for cloud in drivers}
        self._answered = asyncio.Condition()

    async def run(self, cloud: str) -> None:
        """Keep one cloud's list fresh; returns only when cancelled."""
        while True:
            try:
                await self.refresh(cloud)
            except CloudError as error:
                _log.warning("listing the VMs failed; the last list stands", cloud=cloud, error=str(error))
            try:
                async with asyncio.timeout(self._drivers[cloud].poll_s):
                    await self._ask[cloud].wait()
            except TimeoutError:
                continue
            self._ask[cloud].clear()

    async def refresh(self, cloud: str) -> Mapping[str, Machine]:
        """Ask one cloud now; the machines by id.

        Raises:
            CloudError: The cloud failed or did not answer in time.
        """
        self._begun[cloud] += 1
        begun = self._begun[cloud]
        try:
            async with asyncio.timeout(self._call_timeout_s):
                machines = await self._drivers[cloud].list()
        except TimeoutError:
            raise CloudError(f"{cloud} did not list its VMs within {self._call_timeout_s:g} s") from None
        listed = {machine.id: machine for machine in machines}
        async with self._answered:
            if begun > self._rounds[cloud]:  # an answer that was overtaken by a newer one says nothing
                self._machines[cloud] = listed
                self._rounds[cloud] = begun
                self._answered.notify_all()
        return listed

    async def wait_running(self, cloud: str, machine_id: str) -> Machine | None:
        """The machine once it runs and has an address; None when the cloud no longer lists it."""
        seen_from = self._question(cloud)
        async with self._answered:
            while True:
                machine = self._machines[cloud].get(machine_id)
                if machine is None:
                    if self._rounds[cloud] >= seen_from:
                        return None
                elif machine.state is MachineState.RUNNING and machine.address is not None:
                    return machine
                elif machine.state in _ENDED:
                    return None
                await self._answered.wait()

    async def wait_vanished(self, cloud: str, machine_id: str) -> None:
        """Return once the cloud no longer lists the machine (or says that it stops)."""
        seen_from = self._question(cloud)
        async with self._answered:
            while True:
                machine = self._machines[cloud].get(machine_id)
                if machine is None and self._rounds[cloud] >= seen_from:
                    return
                if machine is not None and machine.state in _ENDED:
                    return
                await self._answered.wait()

    def ask_soon(self, cloud: str) -> None:
        """Have the cloud asked at once, since something about one of its VMs looks wrong."""
        self._ask[cloud].set()

    def _question(self, cloud: str) -> int:
        self.ask_soon(cloud)
        return self._begun[cloud] + 1
