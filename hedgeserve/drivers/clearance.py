"""Taking all that a service has in one cloud away, and saying what is left: VMs first, then what they used."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from hedgeserve.drivers.base import Driver, Leftover, Machine, MachineState
from hedgeserve.drivers.catalogue import regions_of
from hedgeserve.errors import AuthError, CloudError
from hedgeserve.spec import Cloud, Spec

T = TypeVar("T")

PATIENCE_S = 900.0
"""How long VMs may take to go, and how long what they used may stay in use: a GPU VM needs some minutes."""
_CLEAR_LIMIT_S = 600.0
"""For one thing: a resource group goes with all that is in it, one after the other."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_FORGOTTEN_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a service has in one region of a cloud."""

    cloud: str
    region: str
    vms: int
    others: int

    @property
    def clear(self) -> bool:
        """Whether nothing is there."""
        return not self.vms and not self.others

    def __str__(self) -> str:
        vms = f"{self.vms} VM{'s' * (self.vms != 1)}"
        return f"{self.cloud} {self.region}: {vms}, {self.others} other thing{'s' * (self.others != 1)}"


ThingKey = tuple[str, str, str]
"""Region, kind and id of a :class:`Leftover`."""


class Clearance:
    """Clears one cloud of one service. What a cloud refuses is asked for again until ``patience_s`` is over.

    With ``only``, VMs by id and other things by key, these are cleared and no others, whoever's they are.
    """

    def __init__(
        self,
        driver: Driver,
        service: str,
        *,
        call_timeout_s: float,
        patience_s: float = PATIENCE_S,
        only: tuple[Collection[str], Collection[ThingKey]] | None = None,
    ) -> None:
        self._driver = driver
        self._service = service
        self._call_timeout_s = call_timeout_s
        self._patience_s = patience_s
        self._only = only

    async def list_vms(self) -> Sequence[Machine]:
        """Every VM of the service that the cloud lists now; one that does not answer is asked again.

        Raises:
            CloudError: It cannot be asked; says why.
        """
        listed: list[Machine] = []

        async def look() -> str:
            listed.extend(await self._machines())
            return ""

        await self._until_done(look)
        return listed

    async def end_vms(self) -> list[str]:
        """Terminate every VM of the service; returns the ids when the cloud lists none any more.

        Raises:
            CloudError: VMs are left, or nobody knows; says which and why.
        """
        ended: dict[str, None] = {}
        trouble: dict[str, str] = {}

        async def end() -> str:
            listed = await self._machines()
            for machine in listed:
                if machine.state is not MachineState.STOPPING:
                    ended[machine.id] = None
                    try:
                        await self._call(self._driver.terminate(machine.id), f"terminate {machine.id}")
                        trouble.pop(machine.id, None)
                    except AuthError:
                        raise
                    except CloudError as error:
                        trouble[machine.id] = str(error)
            if not listed:
                return ""
            still = ", ".join(machine.id for machine in listed)
            why = "; ".join(trouble[machine.id] for machine in listed if machine.id in trouble)
            return f"{self._driver.cloud} still lists {still}{': ' + why if why else ''}"

        await self._until_done(end)
        return list(ended)

    async def clear_rest(self) -> list[Leftover]:
        """Remove all that is no VM; returns what was removed when the cloud shows nothing any more.

        Raises:
            CloudError: Something is left; says what and why.
        """
        removed: dict[ThingKey, Leftover] = {}

        async def clear() -> str:
            left = await self._leftovers()
            trouble: list[str] = []
            for leftover in left:
                try:
                    await self._call(
                        self._driver.clear(leftover), f"remove the {name_of(leftover)}", limit_s=_CLEAR_LIMIT_S
                    )
                    removed[key_of(leftover)] = leftover
                except AuthError:
                    raise
                except CloudError as error:
                    trouble.append(str(error))
            if not left:
                return ""
            still = ", ".join(name_of(leftover) for leftover in left)
            why = "; ".join(trouble)
            return f"{self._driver.cloud} still has {still}{': ' + why if why else ''}"

        await self._until_done(clear)
        return list(removed.values())

    async def standing(self, regions: Iterable[str]) -> list[Standing]:
        """What the cloud lists now in each of these regions, and in any other where it lists something.

        Raises:
            CloudError: The cloud cannot be asked.
        """
        machines, leftovers = await self._machines(), await self._leftovers()
        places = dict.fromkeys(regions)
        places |= dict.fromkeys(machine.zone.split("/")[1] for machine in machines)
        places |= dict.fromkeys(leftover.region for leftover in leftovers)
        return [
            Standing(
                self._driver.cloud,
                region,
                sum(machine.zone.split("/")[1] == region for machine in machines),
                sum(leftover.region == region for leftover in leftovers),
            )
            for region in places
        ]

    async def _machines(self) -> Sequence[Machine]:
        if self._only is None:
            return await self._call(self._driver.list(), "list the VMs")
        everyone = await self._call(self._driver.everyone(), "list the VMs")
        return [machine for machine in everyone if machine.id in self._only[0]]

    async def _leftovers(self) -> Sequence[Leftover]:
        found = await self._call(self._driver.leftovers(), "list what is there besides VMs")
        if self._only is None:
            return [leftover for leftover in found if leftover.service == self._service]
        return [leftover for leftover in found if key_of(leftover) in self._only[1]]

    async def _call(self, call: Awaitable[T], what: str, *, limit_s: float = 0.0) -> T:
        limit_s = max(limit_s, self._call_timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                return await call
        except TimeoutError:
            raise CloudError(f"{self._driver.cloud} did not {what} within {limit_s:g} s") from None

    async def _until_done(self, work: Callable[[], Awaitable[str]]) -> None:
        """Do it until it says nothing is left, with growing pauses; what it said last where time runs out."""
        clock = asyncio.get_running_loop().time
        deadline_s, pause_s = clock() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                left = await work()
                if not left:
                    return
            except AuthError:
                raise
            except CloudError as error:
                left = str(error)
            if clock() + pause_s > deadline_s:
                raise CloudError(left)
            # Most clouds list for a while what they have already taken away, so the first look back is soon.
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, max(_LONGEST_PAUSE_S, self._driver.poll_s))


class Forgotten:
    """Which things in a cloud nobody will miss: in nobody's use for an hour, by the cloud's clock or by ours."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str, str], datetime] = {}

    def among(self, cloud: str, leftovers: Iterable[Leftover], now: datetime) -> list[Leftover]:
        """Those of this cloud's things that were not in use for an hour, as far as was seen."""
        unused = {(one.cloud, one.region, one.kind, one.id): one for one in leftovers if not one.in_use}
        seen = {key: self._seen.get(key, now) for key in unused}
        others = {key: since for key, since in self._seen.items() if key[0] != cloud}
        self._seen = others | seen
        return [one for key, one in unused.items() if is_old(one, now) or now - seen[key] >= _FORGOTTEN_AFTER]


def is_old(leftover: Leftover, now: datetime | None = None) -> bool:
    """Whether the cloud says that it was made more than an hour ago."""
    now = now or datetime.now(UTC)
    return leftover.created_at is not None and now - leftover.created_at >= _FORGOTTEN_AFTER


def key_of(leftover: Leftover) -> ThingKey:
    """What tells a thing from all others of its cloud."""
    return leftover.region, leftover.kind, leftover.id


def name_of(leftover: Leftover) -> str:
    """A thing as a person reads it: ``disk vol-0123 in us-east-1``."""
    return f"{leftover.kind} {leftover.name or leftover.id} in {leftover.region}"


def regions_in(spec: Spec, cloud: str) -> tuple[str, ...]:
    """The regions that a model file's pools name in this cloud."""
    pools = [pool for pool in spec.pools if pool.cloud is Cloud(cloud)]
    return tuple(dict.fromkeys(region for pool in pools for region in regions_of(pool)))
