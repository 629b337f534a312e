"""The end of a VM: its cloud is asked to take it away, again and again, until it has."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from hedgeserve.errors import CloudError
from hedgeserve.machines.hands import Hands
from hedgeserve.machines.journal import EventKind
from hedgeserve.replica import Replica

_log = structlog.get_logger("hedgeserve.fleet")

_RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)


async def take_away(replica: Replica, hands: Hands, record: Callable[[EventKind, str], Awaitable[None]]) -> None:
    """Return once the cloud has been told to end this replica's VM, or has none; each failure is loud."""
    driver, attempt = hands.drivers[replica.offer.cloud], 0
    while True:
        try:
            async with asyncio.timeout(hands.spec.timeouts.cloud_call):
                if (vm_id := await _known_vm(replica, hands)) is not None:
                    await driver.terminate(vm_id)
            return
        except Exception as error:  # whatever it is, giving up would leave a VM that costs money
            if not isinstance(error, CloudError | TimeoutError):
                _log.exception("terminating failed unexpectedly", replica=replica.id)
            told = str(error) or "no answer in time"
            hands.metrics.not_terminated(replica.offer.cloud)
            await record(
                EventKind.TROUBLE, f"it could not be terminated and goes on costing money: {told}; trying again"
            )
        await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
        attempt += 1


async def _known_vm(replica: Replica, hands: Hands) -> str | None:
    if replica.vm_id is not None:
        return replica.vm_id
    # The launch was not answered: its VM, if there is one, bears the name that the journal holds.
    listed = await hands.inventory.refresh(replica.offer.cloud)
    return next((machine.id for machine in listed.values() if machine.name == replica.id), None)
