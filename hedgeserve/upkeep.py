"""What a service does for itself now and then: it measures how late its loop is, and keeps the journal small."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from hedgeserve.errors import StateDirectoryError
from hedgeserve.hedge import Period, begin_of
from hedgeserve.metrics import Metrics
from hedgeserve.store import Store
from hedgeserve.web.sampler import Sampler

_LAG_EVERY_S: Final = 0.5
_PRUNE_EVERY_S: Final = 600.0
_EVENTS_KEPT: Final = 100_000
_GONE_KEPT: Final = 20_000
"""About as many lives as the events that are kept tell of, where launch after launch is refused."""
_ROLLOUTS_KEPT: Final = 1_000
_VERSIONS_KEPT: Final = 1_000
_LINES_KEPT: Final = timedelta(days=2)
"""The forecast looks back a day, and is exact by that."""
_HOURS_KEPT: Final = timedelta(days=62)
"""This month and the last one, by replica and by hour."""
_MOST_HOURS: Final = 200_000


async def measure_lag(metrics: Metrics) -> None:
    """For ever: how much later than it should the event loop comes round."""
    clock = asyncio.get_running_loop().time
    while True:
        due_s = clock() + _LAG_EVERY_S
        await asyncio.sleep(_LAG_EVERY_S)
        metrics.loop_lagged(clock() - due_s)


async def prune(store: Store, sampler: Sampler, service: str) -> None:
    """For ever: keep the journal and the charts' samples within their bounds."""
    while True:
        with suppress(StateDirectoryError):
            await bound(store, service, datetime.now(UTC))
            await sampler.prune(time.time())
        await asyncio.sleep(_PRUNE_EVERY_S)


async def bound(store: Store, service: str, now: datetime) -> None:
    """Keep each table within its bound, a bit at a time: others may write in between.

    Money is not forgotten but added up, first by hour, then by day; a row of a replica goes when no line of the
    ledger is about it any more.

    Raises:
        StateDirectoryError: The journal cannot be written; what is done is done, the rest comes next time.
    """
    await store.prune_events(keep=_EVENTS_KEPT)
    await store.prune_rollouts(service, keep=_ROLLOUTS_KEPT)
    while await store.add_up_lines(before=begin_of(Period.HOUR, now - _LINES_KEPT)):
        pass
    old = begin_of(Period.DAY, now - _HOURS_KEPT)
    while await store.add_up_hours(before=old, keep=_MOST_HOURS):
        pass
    await store.add_up_baseline(before=old)
    while await store.prune_replicas(service, keep=_GONE_KEPT):
        pass


async def forget_versions(store: Store, service: str) -> None:
    """Keep as many versions as anybody will ask for. Before they are read: one that was chosen must not go."""
    with suppress(StateDirectoryError):
        await store.prune_versions(service, keep=_VERSIONS_KEPT)
