"""Taking down a service whose controller does not run: every VM that it left, by what its clouds list."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from hedgeserve.drivers import make_drivers
from hedgeserve.drivers.base import Driver, Machine, MachineState
from hedgeserve.errors import CloudError
from hedgeserve.replica import GoneReason, Replica, State
from hedgeserve.spec import Spec
from hedgeserve.statedir import StateDirectory, resolve_state_dir
from hedgeserve.store import Store


async def reap(spec: Spec, *, environ: Mapping[str, str] | None = None) -> list[str]:
    """Terminate every VM of a service whose controller does not run; the ids of the VMs that were terminated.

    Raises:
        StateLockedError: The controller runs after all; ask it instead.
        CloudError: A VM could not be terminated.
    """
    env = os.environ if environ is None else environ
    path = resolve_state_dir(spec.service.name, spec.service.state_dir, env)
    directory = await asyncio.to_thread(StateDirectory.open, path, service=spec.service.name)
    async with AsyncExitStack() as stack:
        stack.callback(directory.close)
        store = await Store.open(directory.journal)
        stack.push_async_callback(store.close)
        drivers, _ = make_drivers(spec, directory.local_dir, env)
        ended: list[str] = []
        for driver in drivers.values():
            stack.push_async_callback(driver.aclose)
            for machine in await _still_there(driver, spec):
                async with asyncio.timeout(spec.timeouts.cloud_call):
                    await driver.terminate(machine.id)
                ended.append(machine.id)
            if left := await _still_there(driver, spec):
                raise CloudError(
                    f"{driver.cloud} still lists {', '.join(machine.id for machine in left)}; run it again"
                )
        for known in await store.alive_replicas(spec.service.name):
            if known.offer.cloud not in drivers:
                continue  # nobody was asked about its VM
            replica = Replica(
                id=known.id,
                offer=known.offer,
                state=State.TERMINATING,
                since_s=0.0,
                created_at=known.created_at,
                vm_id=known.vm_id,
            ).to(State.GONE, now_s=0.0, why="taken down by hand", gone=GoneReason.SCALED_DOWN)
            await store.save(replica, at=datetime.now(UTC))
        return ended


async def _still_there(driver: Driver, spec: Spec) -> list[Machine]:
    """The VMs that cost money: a cloud may list those that it is taking away for a while."""
    try:
        async with asyncio.timeout(spec.timeouts.cloud_call):
            return [machine for machine in await driver.list() if machine.state is not MachineState.STOPPING]
    except TimeoutError:
        raise CloudError(f"{driver.cloud} did not list its VMs in time; run it again") from None
