"""What the clouds say there is, asked regularly by one task per cloud and shared by all who need it."""

import asyncio
from collections.abc import Callable, Collection, Mapping

import structlog

from hedgeserve.drivers.base import Driver, Machine, MachineState
from hedgeserve.errors import AuthError, CloudError

_AUTH_PAUSE_S = 60.0
"""A cloud that refuses our credentials is not asked again before: only a person can mend that."""
_ENDED = (MachineState.STOPPING, MachineState.STOPPED)
_log = structlog.get_logger("hedgeserve.inventory")


class Inventory:
    """The last answer of each cloud's ``list``; ``answers_again`` is called with a cloud whose silence is over.

    A VM counts as vanished only by an answer that began *after* the question was asked: an older one may not
    have known it yet.
    """

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        *,
        call_timeout_s: float,
        answers_again: Callable[[str], None] = lambda cloud: None,
    ) -> None:
        self._drivers = drivers
        self._call_timeout_s = call_timeout_s
        self._answers_again = answers_again
        self._machines: dict[str, dict[str, Machine]] = {cloud: {} for cloud in drivers}
        self._rounds = dict.fromkeys(drivers, 0)
        self._begun = dict.fromkeys(drivers, 0)
        self._ask = {cloud: asyncio.Event() for cloud in drivers}
        self._answered = asyncio.Condition()
        self._troubles: dict[str, str] = {}
        self._locked_out_until_s: dict[str, float] = {}

    def adopt(self, *, call_timeout_s: float) -> None:
        """Another time for a cloud's answer from now on."""
        self._call_timeout_s = call_timeout_s

    def troubles(self) -> dict[str, str]:
        """Why the clouds that did not answer the last question did not."""
        return dict(self._troubles)

    def locked_out(self, cloud: str) -> bool:
        """Whether this cloud refused our credentials a moment ago."""
        return asyncio.get_running_loop().time() < self._locked_out_until_s.get(cloud, 0.0)

    async def run(self, cloud: str) -> None:
        """Keep one cloud's list fresh; returns only when cancelled."""
        told = ""
        while True:
            try:
                await self.refresh(cloud)
                told = ""
            except CloudError as error:
                if str(error) != told:  # once, and not again with every round
                    told = str(error)
                    _log.warning("listing the VMs failed; the last list stands", cloud=cloud, error=told)
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
            AuthError: It refused our credentials, now or less than a minute ago.
        """
        if self.locked_out(cloud):
            raise AuthError(self._troubles.get(cloud, f"{cloud} refused our credentials"))
        self._begun[cloud] += 1
        begun = self._begun[cloud]
        try:
            async with asyncio.timeout(self._call_timeout_s):
                machines = await self._drivers[cloud].list()
        except TimeoutError:
            self._troubles[cloud] = f"{cloud} did not list its VMs within {self._call_timeout_s:g} s"
            raise CloudError(self._troubles[cloud]) from None
        except CloudError as error:
            self._troubles[cloud] = str(error)
            if isinstance(error, AuthError):
                self._locked_out_until_s[cloud] = asyncio.get_running_loop().time() + _AUTH_PAUSE_S
            raise
        was_silent = self._troubles.pop(cloud, None) is not None
        listed = {machine.id: machine for machine in machines}
        async with self._answered:
            if begun > self._rounds[cloud]:  # an answer that was overtaken by a newer one says nothing
                self._machines[cloud] = listed
                self._rounds[cloud] = begun
                self._answered.notify_all()
        if was_silent:
            self._answers_again(cloud)
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

    async def wait_ending(self, cloud: str, machine_id: str) -> Machine | None:
        """The machine once the cloud says that it stops or has stopped; None when it no longer lists it."""
        return await self._wait_for(cloud, machine_id, _ENDED)

    async def wait_vanished(self, cloud: str, machine_id: str) -> None:
        """Return once the cloud no longer lists the machine, or says that it has stopped."""
        await self._wait_for(cloud, machine_id, (MachineState.STOPPED,))

    async def _wait_for(self, cloud: str, machine_id: str, states: Collection[MachineState]) -> Machine | None:
        seen_from = self._question(cloud)
        async with self._answered:
            while True:
                machine = self._machines[cloud].get(machine_id)
                if machine is None and self._rounds[cloud] >= seen_from:
                    return None
                if machine is not None and machine.state in states:
                    return machine
                await self._answered.wait()

    def ask_soon(self, cloud: str) -> None:
        """Have the cloud asked at once, since something about one of its VMs looks wrong."""
        self._ask[cloud].set()

    def _question(self, cloud: str) -> int:
        self.ask_soon(cloud)
        return self._begun[cloud] + 1
