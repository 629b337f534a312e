"""Taking down a service whose controller does not run: all that it left, by what its clouds list."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from hedgeserve.drivers import make_drivers
from hedgeserve.drivers.base import Driver
from hedgeserve.drivers.clearance import PATIENCE_S, Clearance, Standing, name_of, regions_in
from hedgeserve.errors import CloudError
from hedgeserve.replica import GoneReason, Replica, State
from hedgeserve.spec import Spec
from hedgeserve.statedir import StateDirectory, resolve_state_dir
from hedgeserve.store import Store


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
        swept = await asyncio.gather(
            *(_sweep(driver, spec, tell) for driver in drivers.values()), return_exceptions=True
        )
        ended: list[str] = []
        standings: list[Standing] = []
        troubles: list[str] = []
        clear: set[str] = set()
        for driver, found in zip(drivers.values(), swept, strict=True):
            if isinstance(found, CloudError):
                troubles.append(str(found))
            elif isinstance(found, BaseException):
                raise found
            else:
                ended += found[0]
                standings += found[1]
                clear.add(driver.cloud)
        for known in await store.alive_replicas(spec.service.name):
            if known.offer.cloud not in clear:
                continue  # nobody was asked about its VM, or nobody answered
            replica = Replica(
                id=known.id,
                offer=known.offer,
                state=State.TERMINATING,
                since_s=0.0,
                created_at=known.created_at,
                vm_id=known.vm_id,
            ).to(State.GONE, now_s=0.0, why="taken down by hand", gone=GoneReason.SCALED_DOWN)
            await store.save(replica, at=datetime.now(UTC))
        await store.end_pause(spec.service.name)  # its next start begins anew
    for standing in standings:
        tell(str(standing))
    if left := [standing for standing in standings if not standing.clear]:
        troubles.append(f"something came back while it was taken away: {', '.join(map(str, left))}")
    if troubles:
        raise CloudError(f"{'; '.join(troubles)}; run it again")
    return ended


async def _sweep(driver: Driver, spec: Spec, tell: Callable[[str], None]) -> tuple[list[str], list[Standing]]:
    clearance = Clearance(
        driver, spec.service.name, call_timeout_s=spec.timeouts.cloud_call, patience_s=PATIENCE_S
    )
    ended = await clearance.end_vms()
    for vm in ended:
        tell(f"terminated {vm}")
    for leftover in await clearance.clear_rest():
        tell(f"removed {driver.cloud} {name_of(leftover)}")
    return ended, await clearance.standing(regions_in(spec, driver.cloud))
