"""What a service does for itself now and then: it measures how late its loop is, and forgets what is old."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from hedgeserve.errors import StateDirectoryError
from hedgeserve.metrics import Metrics
from hedgeserve.store import Store
from hedgeserve.web.sampler import Sampler

_LAG_EVERY_S: Final = 0.5
_EVENTS_KEPT: Final = 100_000
_PRUNE_EVERY_S: Final = 600.0


async def measure_lag(metrics: Metrics) -> None:
    """For ever: how much later than it should the event loop comes round."""
    clock = asyncio.get_running_loop().time
    while True:
        due_s = clock() + _LAG_EVERY_S
        await asyncio.sleep(_LAG_EVERY_S)
        metrics.loop_lagged(clock() - due_s)


async def prune(store: Store, sampler: Sampler) -> None:
    """For ever: keep the journal's events and the charts' samples within their bounds."""
    while True:
        with suppress(StateDirectoryError):
            await store.prune_events(keep=_EVENTS_KEPT)
            await sampler.prune(time.time())
        await asyncio.sleep(_PRUNE_EVERY_S)
