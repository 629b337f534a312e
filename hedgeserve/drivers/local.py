"""A make-believe cloud on this machine: VMs are process trees, but SSH, metadata and preemptions are real.

Everything that a VM is made of lies in one directory; who opens the same directory later sees the same VMs.
What befalls the zones is decided by :mod:`.localcloud.weather`; :meth:`LocalDriver.run` plays it.
"""

import asyncio
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from hedgeserve.drivers.base import LaunchRequest, Leftover, Machine
from hedgeserve.drivers.localcloud.directory import LocalVm, VmDirectory
from hedgeserve.drivers.localcloud.record import CONTROL_PORT, ENGINE_PORT, METADATA_PORT, SSH_PORT, VmRecord
from hedgeserve.drivers.localcloud.sshd import find_sshd, sshd_refusal, user_name
from hedgeserve.drivers.localcloud.trouble import explain
from hedgeserve.drivers.localcloud.weather import SpotVm, Weather, climates_of
from hedgeserve.drivers.offers import PriceSource, Quote, withheld_of
from hedgeserve.errors import CapacityError, CloudError, UnsupportedError
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import Cloud, LocalSpec, PoolSpec, Spec

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CALL_DEADLINE_S = 30.0
_TICK_S = 0.25

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


def _weather(pools: Sequence[PoolSpec], local: LocalSpec) -> Weather:
    return Weather(
        climates=climates_of(local, (zone for pool in pools for zone in pool.zones)),
        seed=local.seed,
        began_at=datetime.now(UTC),
        trace_speed=local.trace_speed,
    )


class LocalDriver:
    """The local cloud of one service.

    ``lease_s`` is how long a VM lives on when nobody touches its lease; ``sshd`` names the OpenSSH server to
    use in place of the one that is found. Constructing it reads the zones' traces.

    Raises:
        SpecError: A trace cannot be used.
    """

    cloud = "local"
    poll_s = 0.5

    def __init__(
        self,
        *,
        service: str,
        pools: Sequence[PoolSpec],
        local: LocalSpec,
        directory: Path,
        lease_s: float = 900.0,
        sshd: str | None = None,
    ) -> None:
        self._service = service
        self._pools = [pool for pool in pools if pool.cloud is Cloud.LOCAL]
        self._ssh_server = local.ssh_server
        self._sshd = sshd
        self._lease_s = lease_s
        self._vms = VmDirectory(directory)
        self._weather = _weather(self._pools, local)
        self._seen_after_s = local.vanish_seen_after
        self._doomed: set[str] = set()

    async def adopt(self, spec: Spec) -> None:
        """Go by these pools and this weather, which begins anew.

        Raises:
            SpecError: A trace cannot be used; then everything is as before.
        """
        pools = [pool for pool in spec.pools if pool.cloud is Cloud.LOCAL]
        self._weather = await asyncio.to_thread(_weather, pools, spec.local)
        self._pools, self._ssh_server = pools, spec.local.ssh_server
        self._seen_after_s = spec.local.vanish_seen_after

    def watch(self, regions: Iterable[str]) -> None:
        """Nothing: all VMs are in one directory."""

    async def offers(self) -> Sequence[Offer]:
        """Every zone, instance type and market of the pools, at most ``max_usd_per_hour`` each."""
        return [offer for quote in self.quotes() if (offer := quote.offer) is not None]

    def withheld(self) -> Mapping[ZoneId, Sequence[str]]:
        """What costs more than its pool allows."""
        return withheld_of(self.quotes())

    def quotes(self) -> Sequence[Quote]:
        """Every zone, instance type and market of the pools, with its price."""
        read_at = datetime.now(UTC)
        found: dict[tuple[ZoneId, str, Market], Quote] = {}
        for pool in self._pools:
            for name in pool.zones:
                climate = self._weather.climates[ZoneId(f"local/{name}")]
                prices = {
                    Market.SPOT: climate.spot_usd_per_hour,
                    Market.ON_DEMAND: climate.on_demand_usd_per_hour,
                }
                for market in pool.markets:
                    for kind in pool.instance_types or ["small"]:
                        found[climate.zone, kind, market] = Quote(
                            zone=climate.zone,
                            instance_type=kind,
                            gpu="",
                            market=market,
                            throughput=1.0,
                            source=PriceSource.LIVE,
                            usd_per_hour=prices[market],
                            read_at=read_at,
                            limit_usd_per_hour=pool.max_usd_per_hour,
                        )
        return tuple(found.values())

    async def launch(self, request: LaunchRequest) -> Machine:
        """Start a VM, or find the one that this token has started; returns at once, long before it has booted.

        Raises:
            CapacityError: The zone has no spot VM now.
            UnsupportedError: The pools have no such zone.
            CloudError: This machine cannot run another VM, or cannot run the SSH server that was asked for.
        """
        return await self._in_thread(f"launch {request.name}", lambda: self._launch(request))

    async def list(self) -> Sequence[Machine]:
        """Every VM of this directory that lives; what is left of dead ones is cleared away."""
        return [vm.machine for vm in await self._in_thread("list the VMs", self._mine)]

    async def terminate(self, machine_id: str) -> None:
        """Kill a VM; returns when no process and no file of it is left. One that is already gone is a success."""
        await self._in_thread(f"terminate {machine_id}", lambda: self._vms.terminate(machine_id))
        self._doomed.discard(machine_id)

    async def preempt(self, machine_id: str, *, notice_s: float | None = None) -> None:
        """Take a spot VM back as the cloud does, ``notice_s`` after it was told (None: as its zone has it).

        0 is without a word. Returns when the notice is out, or without one when everything in the VM is dead.

        Raises:
            UnsupportedError: It is an on-demand VM, which is never preempted.
            CloudError: There is no such VM.
        """
        await self._in_thread(f"preempt {machine_id}", lambda: self._preempt(machine_id, notice_s))

    async def vanish(self, machine_id: str, *, seen_after_s: float | None = None) -> None:
        """Take a spot VM back without a word and without a farewell: its connections stay open, nobody answers.

        It is listed for ``seen_after_s`` more (None: as its zone has it), and then killed.

        Raises:
            UnsupportedError: It is an on-demand VM, which is never preempted.
            CloudError: There is no such VM.
        """
        await self._in_thread(f"have {machine_id} vanish", lambda: self._vanish(machine_id, seen_after_s))

    async def rebalance(self, machine_id: str) -> None:
        """Have a VM's metadata service recommend to move elsewhere; only AWS's dialect has a word for it."""
        await self._in_thread(f"rebalance {machine_id}", lambda: self._vms.rebalance(machine_id))

    async def everyone(self) -> Sequence[Machine]:
        """The VMs of this service: no other's lie in its directory."""
        return await self.list()

    async def leftovers(self) -> Sequence[Leftover]:
        """Nothing: all that a VM has lies in its directory and goes with it."""
        return ()

    async def clear(self, leftover: Leftover) -> None:
        """There is nothing to clear."""

    async def run(self) -> None:
        """Play the weather: preempt what the seed and the capacities demand. Returns only when cancelled."""
        if self._weather.calm:
            await asyncio.get_running_loop().create_future()
        while True:
            try:
                await self._in_thread("play the weather", self._play)
            except CloudError as error:
                # The fleet meets the same trouble in its own calls and handles it there.
                _log.warning("local_weather_failed", error=str(error))
            await asyncio.sleep(_TICK_S)

    async def aclose(self) -> None:
        """Nothing is held in this process. VMs stay."""

    async def _in_thread(self, what: str, work: Callable[[], _T]) -> _T:
        """Do blocking work off the loop. Past the deadline it goes on, and `list` tells what came of it."""
        try:
            async with asyncio.timeout(_CALL_DEADLINE_S):
                return await asyncio.to_thread(work)
        except TimeoutError:
            raise CloudError(
                f"could not {what} within {_CALL_DEADLINE_S:g} s; is the disk of {self._vms.root} hanging?"
            ) from None
        except OSError as error:
            raise CloudError(f"could not {what} in {self._vms.root}: {explain(error)}") from error

    def _mine(self) -> Sequence[LocalVm]:
        return [vm for vm in self._vms.living() if vm.record.service == self._service]

    def _launch(self, request: LaunchRequest) -> Machine:
        zone, market = request.offer.zone, request.offer.market
        if not _NAME.fullmatch(request.name):
            raise CloudError(f"{request.name!r} cannot name a VM; use lower-case letters, digits and dashes")
        if zone not in self._weather.climates or market is Market.EXTERNAL:
            zones = ", ".join(self._weather.climates)
            raise UnsupportedError(f"there are no {market} VMs in {zone}; the pools have {zones}")
        there = self._mine()
        for vm in there:
            if vm.record.token == request.token:
                return vm.machine
        sshd = self._choose_sshd()
        now = datetime.now(UTC)
        if market is Market.SPOT:
            in_use = sum(vm.record.market is Market.SPOT and vm.record.zone == zone for vm in there)
            refusal = self._weather.refusal(zone, token=request.token, in_use=in_use, now=now)
            if refusal is not None:
                raise CapacityError(refusal)
        climate = self._weather.climates[zone]
        record = VmRecord(
            name=request.name,
            service=self._service,
            token=request.token,
            tags=dict(request.tags),
            zone=zone,
            market=market,
            instance_type=request.offer.instance_type,
            launched_at=now,
            address="",
            ssh_port=SSH_PORT,
            metadata_port=METADATA_PORT,
            control_port=CONTROL_PORT,
            engine_port=ENGINE_PORT,
            dialect=climate.dialect,
            user=user_name(),
            python=sys.executable,
            sshd=sshd,
            boot_time_s=climate.boot_time_s,
            notice_s=climate.notice_s,
            lease_s=self._lease_s,
            control_token=secrets.token_urlsafe(32),
        )
        keys = {"authorized_key": request.authorized_key, "host_key": request.host_key}
        return self._vms.launch(record, **keys).machine

    def _choose_sshd(self) -> str | None:
        """The OpenSSH server to use; None: asyncssh's own."""
        if self._ssh_server == "asyncssh":
            return None
        sshd = self._sshd or find_sshd()
        refusal = sshd_refusal(sshd, self._vms.root)
        if refusal is None:
            return sshd
        if self._ssh_server == "sshd":
            raise CloudError(
                f'local.ssh_server = "sshd" cannot work: {refusal}; or set it to "auto" or "asyncssh"'
            )
        return None

    def _preempt(self, machine_id: str, notice_s: float | None) -> None:
        record = self._doom(machine_id)
        self._vms.preempt(machine_id, notice_s=record.notice_s if notice_s is None else notice_s)

    def _vanish(self, machine_id: str, seen_after_s: float | None) -> None:
        record = self._doom(machine_id)
        if seen_after_s is None:
            climate = self._weather.climates.get(record.zone)
            seen_after_s = self._seen_after_s if climate is None else climate.vanish_seen_after_s
        self._vms.vanish(machine_id, seen_after_s=seen_after_s)

    def _doom(self, machine_id: str) -> VmRecord:
        """The spot VM of this name, which the weather leaves alone from now on."""
        for vm in self._mine():
            if vm.record.name == machine_id:
                if vm.record.market is not Market.SPOT:
                    raise UnsupportedError(f"{machine_id} is an {vm.record.market} VM; only spot is preempted")
                self._doomed.add(machine_id)
                return vm.record
        raise CloudError(f"there is no VM {machine_id}")

    def _play(self) -> None:
        there = [vm.record for vm in self._mine() if vm.record.market is Market.SPOT]
        self._doomed &= {record.name for record in there}
        spared = [
            SpotVm(record.name, record.zone, record.launched_at)
            for record in there
            if record.name not in self._doomed and record.zone in self._weather.climates
        ]
        for preemption in self._weather.preemptions(spared, datetime.now(UTC)):
            self._doomed.add(preemption.vm)
            if preemption.seen_after_s is None:
                self._vms.preempt(preemption.vm, notice_s=preemption.notice_s)
            else:
                self._vms.vanish(preemption.vm, seen_after_s=preemption.seen_after_s)
            _log.info(
                "local_preemption",
                vm=preemption.vm,
                notice_s=preemption.notice_s,
                silent=preemption.seen_after_s is not None,
                reason=preemption.why,
            )
