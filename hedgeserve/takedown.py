"""Taking down a service whose controller does not run: all that it left, by what its clouds list.

The journal is kept as a controller would have kept it: what each VM has cost to its end, every step as an event.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime

from hedgeserve.drivers import make_drivers
from hedgeserve.drivers.base import Driver, Machine
from hedgeserve.drivers.clearance import PATIENCE_S, Clearance, Standing, name_of, regions_in
from hedgeserve.errors import CloudError, StateDirectoryError
from hedgeserve.fleet import EventKind, Journal, absence_of, charge_stray
from hedgeserve.money import count_absence
from hedgeserve.replica import GoneReason, Market, Replica, State
from hedgeserve.spec import Spec
from hedgeserve.statedir import StateDirectory, resolve_state_dir
from hedgeserve.store import Store
from hedgeserve.tables.replicas import StoredReplica
from hedgeserve.units import format_duration

_WHY = "taken down while no controller ran"


async def reap(
    spec: Spec,
    *,
    environ: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Take away all that a service whose controller does not run has; the ids of the VMs that were terminated.

    ``tell`` gets a line for each thing that was taken away, and last what each cloud lists then, region by region.

    Raises:
        StateLockedError: The controller runs after all; ask it instead.
        CloudError: Something could not be taken away. All clouds have been asked before that is said.
        StateDirectoryError: Nothing is left in the clouds, but the journal could not be told.
    """
    env = os.environ if environ is None else environ
    path = resolve_state_dir(spec.service.name, spec.service.state_dir, env)
    directory = await asyncio.to_thread(StateDirectory.open, path, service=spec.service.name)
    async with AsyncExitStack() as stack:
        stack.callback(directory.close)
        store = await Store.open(directory.journal)
        stack.push_async_callback(store.close)
        drivers, _ = await asyncio.to_thread(make_drivers, spec, directory.local_dir, env)
        for driver in drivers.values():
            stack.push_async_callback(driver.aclose)
        journal = Journal(store, spec.service.name)
        known = await store.alive_replicas(spec.service.name)
        await journal.event(
            EventKind.STOPPING,
            f"{_WHY}: the journal holds {len(known)} replica{'s' * (len(known) != 1)}, and the clouds are asked",
        )
        if known:
            await _count_alone(spec, store)
        sweeps = [_Sweep(driver, spec, store, journal, tell) for driver in drivers.values()]
        swept = await asyncio.gather(
            *(sweep.run([one for one in known if one.offer.cloud == sweep.cloud]) for sweep in sweeps),
            return_exceptions=True,
        )
        standings: list[Standing] = []
        troubles: list[str] = []
        for sweep, found in zip(sweeps, swept, strict=True):
            if isinstance(found, CloudError):
                troubles.append(str(found))
                await journal.event(EventKind.TROUBLE, f"not all of {sweep.cloud} could be taken down: {found}")
            elif isinstance(found, BaseException):
                raise found
            else:
                standings += found
        for standing in standings:
            tell(str(standing))
            await journal.event(EventKind.CLEARED, str(standing), data=asdict(standing))
        if left := [standing for standing in standings if not standing.clear]:
            troubles.append(f"something came back while it was taken away: {', '.join(map(str, left))}")
        if troubles:
            raise CloudError(f"{'; '.join(troubles)}; run it again")
        ended = [vm for sweep in sweeps for vm in sweep.ended]
        count = f"{len(ended)} VM{'s' * (len(ended) != 1)} terminated"
        await journal.event(EventKind.STOPPED, f"{_WHY}: {count}, and nothing of it is left")
        await _see_it_written(spec, store, drivers)
    return ended


async def _count_alone(spec: Spec, store: Store) -> None:
    try:
        await count_absence(store, spec.timeouts.lease, datetime.now(UTC))
    except StateDirectoryError:
        return  # what it would have cost is the less important half; that VMs go does not wait for a disk


async def _see_it_written(spec: Spec, store: Store, clouds: Collection[str]) -> None:
    """The next start begins anew: forget a pause, and how many replicas were wanted.

    Raises:
        StateDirectoryError: The journal could not be told of all that was done; says what to do.
    """
    try:
        await store.end_pause(spec.service.name)
        await store.forget_want(spec.service.name)
        held = [one for one in await store.alive_replicas(spec.service.name) if one.offer.cloud in clouds]
        refused = "" if not held else f"it still holds {len(held)} of its replicas"
    except StateDirectoryError as error:
        refused = str(error)
    if refused:
        raise StateDirectoryError(
            f"no VM of {spec.service.name} is left, but its journal could not be told, nor what they have cost of "
            f"late: {refused}; then run this again"
        )


class _Sweep:
    """One cloud, cleared; :attr:`ended` are the VMs that it was asked to terminate.

    A replica is written down as ``terminating`` before its cloud is asked, so that whoever comes after a ``kill
    -9`` of this goes on with it; where the cloud cannot be asked at all, its replicas stay as they are.
    """

    def __init__(
        self, driver: Driver, spec: Spec, store: Store, journal: Journal, tell: Callable[[str], None]
    ) -> None:
        self.cloud, self.ended = driver.cloud, list[str]()
        self._driver, self._spec, self._store, self._journal, self._tell = driver, spec, store, journal, tell

    async def run(self, known: Sequence[StoredReplica]) -> list[Standing]:
        """End it all; what the cloud lists then.

        Raises:
            CloudError: Something is left, or the cloud cannot be asked.
        """
        clearance = Clearance(
            self._driver,
            self._spec.service.name,
            call_timeout_s=self._spec.timeouts.cloud_call,
            patience_s=PATIENCE_S,
        )
        strangers = {machine.id: machine for machine in await clearance.list_vms()}
        going: list[tuple[Replica, float]] = []
        for one in known:
            machine = next((m for m in strangers.values() if m.name == one.id and one.vm_id in (None, m.id)), None)
            if machine is not None:
                del strangers[machine.id]
            if (left := await self._begin(one, machine)) is not None:
                going.append(left)
        began = asyncio.get_running_loop().time()
        self.ended = await clearance.end_vms()
        ran_s = asyncio.get_running_loop().time() - began
        for replica, price in going:
            await self._journal.charge(replica, ran_s, price, "draining")
            lived_s = (datetime.now(UTC) - replica.created_at).total_seconds()
            usd = lived_s * replica.offer.usd_per_hour / 3600
            await self._bury(replica, f"{replica.gone} after {format_duration(lived_s)}, for {usd:.4f} USD")
        for vm in self.ended:
            self._tell(f"terminated {vm}")
            if (machine := strangers.get(vm)) is not None:
                cost = await charge_stray(self._journal, machine)
                told = f"VM {vm} ({machine.name}) was terminated: {_WHY}, and no replica owned it; {cost}"
                await self._journal.event(EventKind.REAPED, told, zone=machine.zone)
        for leftover in await clearance.clear_rest():
            self._tell(f"removed {self.cloud} {name_of(leftover)}")
            await self._journal.event(
                EventKind.REAPED, f"{self.cloud} {name_of(leftover)} was removed: the service is taken down"
            )
        return await clearance.standing(regions_in(self._spec, self.cloud))

    async def _begin(self, known: StoredReplica, machine: Machine | None) -> tuple[Replica, float] | None:
        """Charge for the time without a controller; the replica that goes now, and its price. None: it is gone."""
        now_s = asyncio.get_running_loop().time()
        absence = await absence_of(
            self._journal, known, listed=machine is not None, lease_s=self._spec.timeouts.lease
        )
        taken = known.vm_id is not None and known.offer.market is Market.SPOT
        lost = GoneReason.PREEMPTED if taken else GoneReason.FAILED
        replica = Replica(
            id=known.id,
            offer=known.offer,
            state=State.TERMINATING,
            since_s=now_s,
            created_at=known.created_at,
            why=known.why if known.state is State.TERMINATING else _WHY,
            vm_id=known.vm_id if machine is None else machine.id,
            gone=known.gone or (lost if machine is None else GoneReason.SCALED_DOWN),
        )
        last_price = await self._store.last_price(known.id)
        price = known.offer.usd_per_hour if last_price is None else last_price
        await self._journal.charge(replica, absence.seconds, price, absence.purpose, until=absence.until)
        if machine is None:
            await self._bury(replica, "its VM was gone already when the service was taken down")
            return None
        await self._journal.save(replica)
        if known.state is not State.TERMINATING:
            await self._journal.event(
                EventKind.STATE,
                f"{known.state} → {State.TERMINATING}: {_WHY}",
                replica=replica.id,
                zone=replica.zone,
                data={"market": str(replica.market), "gone": str(replica.gone)},
            )
        return replica, price

    async def _bury(self, replica: Replica, why: str) -> None:
        gone = replica.to(State.GONE, now_s=asyncio.get_running_loop().time(), why=why)
        await self._journal.save(gone)
        await self._journal.event(
            EventKind.GONE,
            f"{State.TERMINATING} → {State.GONE}: {why}",
            replica=gone.id,
            zone=gone.zone,
            data={"market": str(gone.market), "gone": str(gone.gone)},
        )
