"""Reads the service for its history, and has what is complete written down beside it.

Reading is a few additions a second, in the tick; writing is a task of its own, for a tick must not wait for a
disk. A slot that cannot be written is in memory all the same: the charts lack it only after a restart.
"""

import asyncio
import json
from collections import deque
from collections.abc import Sequence

import structlog

from hedgeserve.errors import StateDirectoryError
from hedgeserve.metrics import Metrics
from hedgeserve.replica import Market, Offer, Replica, State
from hedgeserve.store import Store
from hedgeserve.web.history import TIERS, History, Reading, Slot

_MOST_UNWRITTEN = 100
_log = structlog.get_logger("hedgeserve.web")


class Sampler:
    """Keeps a :class:`History` for one service."""

    def __init__(self, metrics: Metrics, store: Store) -> None:
        self._metrics = metrics
        self._store = store
        self._unwritten: deque[tuple[int, Slot]] = deque(maxlen=_MOST_UNWRITTEN)
        self._more = asyncio.Event()
        self._failed = False
        self.history = History(metrics.first_token_bounds_s)

    async def recall(self, now_s: float) -> None:
        """Take over what earlier runs have seen; what cannot be read is left out."""
        for width_s, kept in TIERS.items():
            found = await self._store.samples(width_s, since_s=int(now_s) - width_s * kept)
            slots = []
            for start_s, text in found:
                try:
                    slots.append(Slot.of_row(start_s, json.loads(text)))
                except ValueError:
                    continue
            self.history.restore(width_s, slots)

    def read(
        self,
        at_s: float,
        *,
        target: int,
        queued: int,
        in_flight: int,
        replicas: Sequence[Replica],
        offers: Sequence[Offer],
    ) -> None:
        """Look at the service at this moment (Unix seconds)."""
        ready = [replica for replica in replicas if replica.state is State.READY]
        on_demand = [offer.usd_per_hour for offer in offers if offer.market is Market.ON_DEMAND]
        so_far = self._metrics.so_far()
        ended = self.history.read(
            Reading(
                at_s,
                ready=len(ready),
                target=target,
                on_demand=sum(replica.market is Market.ON_DEMAND for replica in ready),
                queued=queued,
                in_flight=in_flight,
                usd_per_hour=sum(one.offer.usd_per_hour for one in replicas if one.vm_id is not None),
                on_demand_usd_per_hour=min(on_demand, default=0.0) * target,
                requests=so_far.requests,
                failed=so_far.failed,
                tokens=so_far.tokens,
                first_tokens=so_far.first_tokens,
            )
        )
        if ended:
            self._unwritten.extend(ended)
            self._more.set()

    async def run(self) -> None:
        """Write what has come to its end, for ever."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._unwritten:
                width_s, slot = self._unwritten.popleft()
                await self._write(width_s, slot)

    async def _write(self, width_s: int, slot: Slot) -> None:
        try:
            await self._store.save_sample(width_s, slot.start_s, json.dumps(slot.as_row()))
        except StateDirectoryError as error:
            if not self._failed:
                _log.warning("the dashboard's history cannot be written", error=str(error))
            self._failed = True
        else:
            self._failed = False

    async def prune(self, now_s: float) -> None:
        """Forget on the disk what is forgotten in memory."""
        for width_s, kept in TIERS.items():
            await self._store.prune_samples(width_s, before_s=int(now_s) - width_s * kept)
