"""Finds what bears the service's tag in a cloud and belongs to no replica: it costs money for nothing."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

import structlog

from hedgeserve.drivers.base import Driver, Leftover, Machine, MachineState
from hedgeserve.drivers.clearance import Clearance, Forgotten, name_of, regions_in
from hedgeserve.drivers.tags import is_foreign
from hedgeserve.errors import CloudError
from hedgeserve.machines.absence import charge_stray
from hedgeserve.machines.inventory import Inventory
from hedgeserve.machines.journal import EventKind, Journal
from hedgeserve.metrics import Metrics
from hedgeserve.spec import Spec

_log = structlog.get_logger("hedgeserve.fleet")

_REAP_EVERY_S = 30.0
_CLEAR_EVERY_S = 600.0

Owned = set[tuple[str, str | None]]
"""Names and VMs of all replicas; None for a VM that the cloud may still be granting."""


class Reaper:
    """Ends VMs that no replica owns, and removes disks, addresses and the like that were in no use for an hour."""

    def __init__(
        self,
        spec: Spec,
        drivers: Mapping[str, Driver],
        inventory: Inventory,
        journal: Journal,
        owned: Callable[[], Owned],
        controller: str,
        metrics: Metrics,
    ) -> None:
        self._spec = spec
        self._service = spec.service.name
        self._drivers = drivers
        self._inventory = inventory
        self._journal = journal
        self._owned = owned
        self._controller = controller
        self._metrics = metrics
        self._forgotten = Forgotten()

    async def reap_vms(self) -> None:
        """Look for VMs without an owner, for ever."""
        while True:
            await asyncio.sleep(_REAP_EVERY_S)
            for cloud in self._drivers:
                # Owners from before the list as well as after: a life may end, or begin, while the cloud answers.
                owned = self._owned()
                try:
                    machines = await self._inventory.refresh(cloud)
                except CloudError:
                    continue  # the inventory's own round has said so
                owned |= self._owned()
                for machine in machines.values():
                    known = (machine.name, machine.id) in owned or (machine.name, None) in owned
                    # One that has stopped by itself is none of those that go by themselves: its disk is paid for.
                    ours = not is_foreign(machine.tags, self._controller)
                    if ours and not known and machine.state is not MachineState.STOPPING:
                        await self.reap(machine, "no replica owns it")

    def adopt(self, spec: Spec) -> None:
        """Go by this spec from now on."""
        self._spec = spec

    async def reap(self, machine: Machine, why: str) -> None:
        """Terminate one VM; where that fails, the next round finds it again."""
        cloud = machine.zone.split("/", 1)[0]
        try:
            async with asyncio.timeout(self._spec.timeouts.cloud_call):
                await self._drivers[cloud].terminate(machine.id)
        except (CloudError, TimeoutError) as error:
            _log.error("an orphan could not be terminated; trying again later", vm=machine.id, error=str(error))
            self._metrics.not_terminated(cloud)
            return
        self._metrics.reaped(cloud)
        cost = await charge_stray(self._journal, machine)
        await self._journal.event(
            EventKind.REAPED, f"VM {machine.id} ({machine.name}) was terminated: {why}; {cost}", zone=machine.zone
        )

    async def remove_forgotten(self) -> None:
        """Look for things that are in nobody's use, for ever."""
        while True:
            for cloud in self._drivers:
                await self._remove_forgotten(cloud)
            await asyncio.sleep(_CLEAR_EVERY_S)

    async def _remove_forgotten(self, cloud: str) -> None:
        if self._inventory.locked_out(cloud):
            return
        driver, limit_s = self._drivers[cloud], self._spec.timeouts.cloud_call
        try:
            async with asyncio.timeout(limit_s):
                found = [one for one in await driver.leftovers() if one.service == self._service]
        except (CloudError, TimeoutError) as error:
            _log.warning("what is there besides VMs could not be listed", cloud=cloud, error=str(error))
            return
        for leftover in self._forgotten.among(cloud, found, datetime.now(UTC)):
            try:
                async with asyncio.timeout(limit_s):
                    await driver.clear(leftover)
            except (CloudError, TimeoutError) as error:
                _log.warning(
                    "a thing that nobody uses could not be removed; trying again later",
                    what=name_of(leftover),
                    error=str(error),
                )
            else:
                await self._removed(leftover, "nothing had used it for an hour")

    async def clear(self, clouds: Collection[str]) -> None:
        """Take all that the service has in these clouds away, and write down what each region still lists."""
        await asyncio.gather(*(self._clear(cloud) for cloud in self._drivers if cloud in clouds))

    async def _clear(self, cloud: str) -> None:
        clearance = Clearance(self._drivers[cloud], self._service, call_timeout_s=self._spec.timeouts.cloud_call)
        try:
            for vm in await clearance.end_vms():
                await self._journal.event(EventKind.REAPED, f"VM {vm} was terminated: the service is taken down")
            for leftover in await clearance.clear_rest():
                await self._removed(leftover, "the service is taken down")
            for standing in await clearance.standing(regions_in(self._spec, cloud)):
                await self._journal.event(EventKind.CLEARED, str(standing), data=asdict(standing))
        except CloudError as error:
            await self._journal.event(EventKind.TROUBLE, f"not all of {cloud} could be taken down: {error}")

    async def _removed(self, leftover: Leftover, why: str) -> None:
        await self._journal.event(EventKind.REAPED, f"{leftover.cloud} {name_of(leftover)} was removed: {why}")
