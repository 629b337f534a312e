"""What the drivers of AWS, GCP and Azure have in common; what differs is in their abstract methods.

A cloud's own code is synchronous, works on one library object of one region and runs in a thread
(:meth:`RemoteDriver.ask`); all that waits, retries or remembers is here and runs in the event loop.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

import structlog

from hedgeserve.drivers.base import Dialect, LaunchRequest, Leftover, Machine, MachineState
from hedgeserve.drivers.catalogue import regions_of, types_of
from hedgeserve.drivers.examine import Examination, Finding, examine
from hedgeserve.drivers.offers import PriceKey, quotes_of, withheld_of, without_price
from hedgeserve.drivers.threads import CloudThreads
from hedgeserve.drivers.whoami import allowed_networks
from hedgeserve.errors import AuthError, CloudError, ThrottledError
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import Cloud, PoolSpec, Spec

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")

_log = structlog.get_logger("hedgeserve.drivers")

_PATIENCE_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses after a call that was throttled, each made longer by a random share of itself."""
_LONGEST_PAUSE_S = 30.0
"""Where a cloud asks for more patience than this, who asked is told so, rather than kept waiting."""
_SETTLING_S = 120.0
"""For so long after a launch a cloud may not list the VM yet (EC2 is eventually consistent)."""
_REFRESH_S = 300.0

Price = PriceKey


@dataclass(frozen=True, slots=True)
class _Recent:
    machine: Machine
    at_s: float


class RemoteDriver(ABC, Generic[A]):
    """A cloud on the other side of an API; ``A`` is the type of its library object, one per region and thread."""

    cloud: ClassVar[Cloud]
    dialect: ClassVar[Dialect]
    poll_s = 10.0

    def __init__(self, spec: Spec, environ: Mapping[str, str]) -> None:
        self.spec = spec
        self.environ = environ
        self.service = spec.service.name
        self.pools: Sequence[PoolSpec] = [pool for pool in spec.pools if pool.cloud is self.cloud]
        self.regions = tuple(dict.fromkeys(region for pool in self.pools for region in regions_of(pool)))
        self._threads: CloudThreads[A] = CloudThreads(
            self.cloud, self.connect, workers=spec.vm.call_threads, stamp=self.stamp
        )
        self._recent: dict[str, _Recent] = {}
        self._late: asyncio.Queue[Machine] = asyncio.Queue()
        self._networks: tuple[str, ...] = ()
        self._prepared: set[str] = set()
        self._inhabited: set[str] = set()
        self._preparing = {region: asyncio.Lock() for region in self.regions}
        self._prices: dict[Price, tuple[float, datetime]] = {}
        self._unpriced: set[tuple[str, tuple[Market, ...]]] = set()

    # What a cloud does itself. The first two run in threads.

    @abstractmethod
    def connect(self, region: str) -> A:
        """The library object of this region, with the present credentials; AuthError where there are none."""

    def stamp(self, region: str) -> Hashable:
        """What :meth:`connect` depends on and may change: the present credentials."""
        return None

    @abstractmethod
    def explain(self, error: Exception, what: str) -> CloudError:
        """Whatever the library raised while doing ``what``, in our vocabulary, with what to do about it."""

    @abstractmethod
    async def prepare(self, region: str, networks: Sequence[str]) -> None:
        """Have key, network and a firewall that lets only ``networks`` in; idempotent; called before a launch."""

    @abstractmethod
    async def start(self, region: str, zone: str, request: LaunchRequest) -> Machine:
        """Ask for one VM; raises what the cloud says against it, also what it says some seconds later."""

    @abstractmethod
    async def vms(self, region: str, service: str | None) -> Sequence[Machine]:
        """The VMs with the tag of this service, or of any; only those that may still cost money."""

    @abstractmethod
    async def end(self, region: str, native_id: str) -> bool:
        """Have this VM taken away with all that belongs to it; false when the cloud does not know it."""

    @abstractmethod
    async def things(self, region: str) -> Sequence[Leftover]:
        """All that bears our tag in this region and is no VM, of any service."""

    @abstractmethod
    async def remove(self, leftover: Leftover) -> None:
        """Take one of these away."""

    async def prices(self, region: str, types: Sequence[str]) -> Mapping[Price, float]:
        """Live prices, as far as an API tells them."""
        return {}

    def endpoint(self, region: str) -> str:
        """The base URL of its API, empty where there is none to reach; CloudError for a region that is none."""
        return ""

    async def inspect(self, region: str, found: Examination) -> None:
        """What else can be known of a region before anything is launched there; nothing is changed."""

    # The driver protocol

    async def examine(self) -> Sequence[Finding]:
        """What can be known before money is spent: :mod:`hedgeserve.drivers.examine`."""
        return await examine(self)

    async def adopt(self, spec: Spec) -> None:
        """Go by this spec; each region is prepared anew before its next launch."""
        self.spec = spec
        self.pools = [pool for pool in spec.pools if pool.cloud is self.cloud]
        self.watch(region for pool in self.pools for region in regions_of(pool))
        self._prepared.clear()

    def watch(self, regions: Iterable[str]) -> None:
        """List VMs in these regions too."""
        self.regions = tuple(dict.fromkeys((*self.regions, *regions)))
        for region in self.regions:
            self._preparing.setdefault(region, asyncio.Lock())

    def withheld(self) -> Mapping[ZoneId, Sequence[str]]:
        """What costs more than its pool allows, and what nobody tells a price of."""
        return withheld_of(quotes_of(self.pools, self._prices))

    async def offers(self) -> Sequence[Offer]:
        """The pools' offers: at live prices where they are known, else at the catalogue's, with its date."""
        quotes = quotes_of(self.pools, self._prices)
        for name, markets in without_price(quotes).items():
            if (name, markets) not in self._unpriced:
                self._unpriced.add((name, markets))
                _log.warning(
                    "an instance type is not offered: nobody tells its price; max_usd_per_hour in its pool would "
                    "be taken for it",
                    cloud=self.cloud,
                    instance_type=name,
                    markets=[str(market) for market in markets],
                )
        return tuple(offer for quote in quotes if (offer := quote.offer) is not None)

    async def launch(self, request: LaunchRequest) -> Machine:
        """Prepare the region if that was not done yet, then ask for the VM."""
        _, region, zone = request.offer.zone.split("/", 2)
        await self._prepare(region)
        machine = await self.start(region, zone, request)
        self._recent[machine.id] = _Recent(machine, _now_s())
        return machine

    async def list(self) -> Sequence[Machine]:
        """This service's VMs in all regions, with those that were launched so lately that no list has them."""
        listed = {machine.id: machine for machine in await self._everywhere(lambda r: self.vms(r, self.service))}
        self._inhabited = {machine_id.partition("/")[0] for machine_id in listed}
        for known in list(self._recent):
            if known in listed or _now_s() - self._recent[known].at_s > _SETTLING_S:
                del self._recent[known]
        return [*listed.values(), *(recent.machine for recent in self._recent.values())]

    async def terminate(self, machine_id: str) -> None:
        """End the VM; one that was launched a moment ago and is not known yet is asked for again later."""
        region, _, native_id = machine_id.partition("/")
        known = await self.end(region, native_id)
        if not known and machine_id in self._recent and _now_s() - self._recent[machine_id].at_s < _SETTLING_S:
            raise CloudError(f"{self.cloud} does not know {machine_id} yet, which it has just granted")
        self._recent.pop(machine_id, None)

    async def everyone(self) -> Sequence[Machine]:
        """Every HedgeServe VM in the pools' regions."""
        return await self._everywhere(lambda region: self.vms(region, None))

    async def leftovers(self) -> Sequence[Leftover]:
        """What is there besides VMs, in the pools' regions."""
        return await self._everywhere(self.things)

    async def clear(self, leftover: Leftover) -> None:
        """Take a leftover away; the region is prepared anew before the next launch."""
        await self.remove(leftover)
        self._prepared.discard(leftover.region)

    async def run(self) -> None:
        """Keep prices and firewalls as they should be; end VMs that were granted after we had given up."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._refresh_prices(), name=f"{self.cloud} prices")
            group.create_task(self._refresh_networks(), name=f"{self.cloud} networks")
            group.create_task(self._end_late_ones(), name=f"{self.cloud} late launches")

    async def aclose(self) -> None:
        """Take no more calls."""
        self._threads.close()

    # For the cloud's own code

    async def ask(
        self,
        region: str,
        work: Callable[[A], R],
        what: str,
        *,
        late: Callable[[R], None] | None = None,
    ) -> R:
        """The result of ``work`` in a thread; asked again, with growing pauses, while the cloud throttles.

        ``what`` goes on after "could not": "list the VMs". ``late`` gets the result of a call that was given up.

        Raises:
            CloudError: In our vocabulary, whatever went wrong.
        """
        for pause_s in (*_PATIENCE_S, None):
            try:
                return await self._threads.call(region, work, late=late)
            except CloudError as error:
                refusal = error
            except Exception as error:
                refusal = self.explain(error, what)
            if (
                pause_s is None
                or not isinstance(refusal, ThrottledError)
                or refusal.retry_after_s > _LONGEST_PAUSE_S
            ):
                raise refusal
            await asyncio.sleep(max(pause_s, refusal.retry_after_s) + pause_s * random.random())
        raise AssertionError("unreachable")

    def granted_late(self, machine: Machine) -> None:
        """To give as ``late``: the VM was granted after its launch had been given up; it is ended."""
        self._late.put_nowait(machine)

    # How it is done

    async def _everywhere(self, look: Callable[[str], Coroutine[Any, Any, Sequence[T]]]) -> Sequence[T]:
        """What each region answers, asked all at once; the first CloudError where one fails."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(look(region)) for region in self.regions]
        except* CloudError as failed:
            error = failed.exceptions[0]
        else:
            return [found for task in tasks for found in task.result()]
        raise error

    async def _prepare(self, region: str) -> None:
        """Once per region and run; a launch that comes meanwhile waits, and tries again if it failed."""
        async with self._preparing[region]:
            if region in self._prepared:
                return
            if not self._networks:
                self._networks = await allowed_networks(self.spec.vm)
            await self.prepare(region, self._networks)
            self._prepared.add(region)

    async def _refresh_networks(self) -> None:
        # At once, too: VMs of an earlier run may have been opened to an address that is no longer ours.
        while True:
            try:
                if behind := (self._prepared | self._inhabited) & set(self.regions):
                    networks = await allowed_networks(self.spec.vm)
                    if networks != self._networks:
                        self._networks = networks
                        self._prepared.clear()
                    for region in sorted(behind - self._prepared):
                        async with self._preparing[region]:
                            await self.prepare(region, networks)
                            self._prepared.add(region)
            except CloudError as error:
                _log.warning("the firewalls could not be looked after", cloud=self.cloud, error=str(error))
            await asyncio.sleep(_REFRESH_S)

    async def _refresh_prices(self) -> None:
        while True:
            types = tuple(dict.fromkeys(name for pool in self.pools for name in types_of(pool)))
            for region in self.regions:
                try:
                    now = datetime.now(UTC)
                    for price, usd_per_hour in (await self.prices(region, types)).items():
                        self._prices[price] = (usd_per_hour, now)
                except CloudError as error:
                    _log.warning(
                        "prices could not be read; the last ones stand",
                        cloud=self.cloud,
                        region=region,
                        error=str(error),
                    )
            await asyncio.sleep(_REFRESH_S)

    async def _end_late_ones(self) -> None:
        while True:
            machine = await self._late.get()
            self._recent[machine.id] = _Recent(machine, _now_s())
            with suppress(AuthError):  # nothing can be done now; the reaper goes on trying
                try:
                    await self.terminate(machine.id)
                except CloudError:
                    self._late.put_nowait(machine)
                    await asyncio.sleep(_PATIENCE_S[-1])


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def pending(
    driver: "RemoteDriver[A]", request: LaunchRequest, native_id: str, *, gpus: int = 0, user: str = "root"
) -> Machine:
    """The VM that a cloud has just granted, before it has said anything more of it."""
    _, region, _ = request.offer.zone.split("/", 2)
    return Machine(
        id=f"{region}/{native_id}",
        name=request.name,
        zone=request.offer.zone,
        market=request.offer.market,
        instance_type=request.offer.instance_type,
        state=MachineState.PENDING,
        tags=dict(request.tags),
        launched_at=datetime.now(UTC),
        ssh_user=user,
        dialect=driver.dialect,
        gpus=gpus,
    )
