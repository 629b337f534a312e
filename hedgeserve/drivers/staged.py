"""A cloud as a drill lets the fleet see it: the real one behind, with refusals, slow boots or silence before it.

Nothing is done to the cloud itself. Each condition ends by the clock, and all of them with the process: a
controller that dies in a drill starts again in the world as it is.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from hedgeserve.drivers.base import Driver, LaunchRequest, Leftover, Machine, MachineState
from hedgeserve.errors import CapacityError, CloudError
from hedgeserve.replica import Offer, ZoneId
from hedgeserve.spec import Spec


class Stage:
    """What a drill has set; all drivers that it was put before look at it. Times are the loop's."""

    def __init__(self) -> None:
        self._refusing: dict[ZoneId, float] = {}
        self._silent: dict[str, float] = {}
        self._slow: tuple[float, float] | None = None
        self._held: dict[str, float] = {}

    def before(self, drivers: Mapping[str, Driver]) -> dict[str, Driver]:
        """These drivers, each with the stage before it."""
        return {cloud: StagedDriver(driver, self) for cloud, driver in drivers.items()}

    # What a drill sets

    def refuse(self, zones: Collection[ZoneId], until_s: float) -> None:
        """Launches in these zones are refused for want of capacity until then."""
        self._refusing |= dict.fromkeys(zones, until_s)

    def silence(self, cloud: str, until_s: float) -> None:
        """No call to this cloud is answered until then."""
        self._silent[cloud] = until_s

    def slow_down(self, by_s: float, until_s: float) -> None:
        """VMs that are launched until then take so much longer to come up."""
        self._slow = (by_s, until_s)

    def lift(self) -> None:
        """All is as it is again."""
        self._refusing.clear()
        self._silent.clear()
        self._slow = None
        self._held.clear()

    @property
    def held(self) -> frozenset[str]:
        """VMs whose boot is, or was, held back."""
        return frozenset(self._held)

    # What its drivers ask

    def answer(self, cloud: str) -> None:
        """Raises CloudError while this cloud is to be silent."""
        if _now_s() < self._silent.get(cloud, 0.0):
            raise _staged(CloudError(f"{cloud} does not answer: a drill has taken its API away"))

    def grant(self, zone: ZoneId) -> None:
        """Raises CapacityError while this zone is to refuse launches."""
        if _now_s() < self._refusing.get(zone, 0.0):
            raise _staged(CapacityError(f"{zone} has no capacity: a drill has it refuse launches"))

    def launched(self, machine: Machine) -> None:
        """A VM was granted."""
        if self._slow is not None and _now_s() < self._slow[1]:
            self._held[machine.id] = _now_s() + self._slow[0]

    def seen(self, machine: Machine) -> Machine:
        """The VM as it is to be seen: one whose boot is held back has not come up yet."""
        if machine.state is MachineState.RUNNING and _now_s() < self._held.get(machine.id, 0.0):
            return replace(machine, state=MachineState.PENDING)
        return machine


class StagedDriver:
    """A driver with a stage before it; without a drill, the driver."""

    def __init__(self, driver: Driver, stage: Stage) -> None:
        self._driver = driver
        self._stage = stage

    @property
    def cloud(self) -> str:
        """As the driver's."""
        return self._driver.cloud

    @property
    def poll_s(self) -> float:
        """As the driver's."""
        return self._driver.poll_s

    async def adopt(self, spec: Spec) -> None:
        """As the cloud behind."""
        await self._driver.adopt(spec)

    def watch(self, regions: Iterable[str]) -> None:
        """As the cloud behind."""
        self._driver.watch(regions)

    async def offers(self) -> Sequence[Offer]:
        """As the driver's; prices are kept from before, so that silence does not touch them."""
        return await self._driver.offers()

    def withheld(self) -> Mapping[ZoneId, Sequence[str]]:
        """As the driver's."""
        return self._driver.withheld()

    async def launch(self, request: LaunchRequest) -> Machine:
        """As the driver's, where the stage lets it through."""
        self._stage.answer(self.cloud)
        self._stage.grant(request.offer.zone)
        machine = await self._driver.launch(request)
        self._stage.launched(machine)
        return machine

    async def list(self) -> Sequence[Machine]:
        """As the driver's, with boots held back."""
        self._stage.answer(self.cloud)
        return [self._stage.seen(machine) for machine in await self._driver.list()]

    async def terminate(self, machine_id: str) -> None:
        """As the driver's."""
        self._stage.answer(self.cloud)
        await self._driver.terminate(machine_id)

    async def everyone(self) -> Sequence[Machine]:
        """As the driver's."""
        self._stage.answer(self.cloud)
        return await self._driver.everyone()

    async def leftovers(self) -> Sequence[Leftover]:
        """As the driver's."""
        self._stage.answer(self.cloud)
        return await self._driver.leftovers()

    async def clear(self, leftover: Leftover) -> None:
        """As the driver's."""
        self._stage.answer(self.cloud)
        await self._driver.clear(leftover)

    async def run(self) -> None:
        """As the driver's."""
        await self._driver.run()

    async def aclose(self) -> None:
        """As the driver's."""
        await self._driver.aclose()


def _staged(error: CloudError) -> CloudError:
    error.staged = True
    return error


def _now_s() -> float:
    return asyncio.get_running_loop().time()
