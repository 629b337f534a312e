"""What a service wants, kept over restarts: how many replicas, since when nobody asks, until when it is awake.

It is on disk before anything is launched for it. So a controller that is killed right after a request has woken
its service, or under load, goes on with what it had begun instead of letting it go and beginning at the bottom.
"""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from hedgeserve.errors import StateDirectoryError
from hedgeserve.hedge import Autoscaler, WindDown
from hedgeserve.spec import Spec
from hedgeserve.store import Store
from hedgeserve.tables.wants import StoredWant

_KEEP_EVERY_S: Final = 15.0
_SHARE_OF_IDLE: Final = 0.1
_CLOCKS_DIFFER_S: Final = 1.0


class Wanted:
    """Remembers for one service what its autoscaler and its calendar have come to."""

    def __init__(self, spec: Spec, store: Store, autoscaler: Autoscaler, winddown: WindDown) -> None:
        self._store, self._autoscaler, self._winddown = store, autoscaler, winddown
        self._kept: StoredWant | None = None
        self.adopt(spec)

    def adopt(self, spec: Spec) -> None:
        """Go by this spec from now on."""
        self._service, self._lease_s = spec.service.name, spec.timeouts.lease
        idle_s = spec.replicas.idle_after
        self._every_s = _KEEP_EVERY_S if idle_s is None else min(_KEEP_EVERY_S, idle_s * _SHARE_OF_IDLE)

    async def recall(self, now: datetime) -> int | None:
        """Take up what an earlier run wanted; its target, None where that is too long ago to mean anything.

        That is where it was down for longer than a VM may do without it: then nothing of it is left.
        """
        self._kept = kept = await self._store.load_want(self._service)
        if kept is None:
            return None
        if kept.awake_until is not None and now < kept.awake_until:
            self._winddown.go_on(kept.awake_until, kept.woken_by)
        if now - kept.at > timedelta(seconds=self._lease_s):
            return None
        idle_s = max(0.0, (now - kept.busy_at).total_seconds())
        self._autoscaler.go_on(asyncio.get_running_loop().time(), target=kept.target, idle_s=idle_s)
        return kept.target

    async def keep(self, now: datetime, target: int | None = None) -> None:
        """Write down what is new of it: at once what was decided, now and then how long it may last.

        ``target`` None: as before.
        """
        if target is None:
            target = self._kept.target if self._kept is not None else 0
        busy_s, woken = self._autoscaler.busy_until_s, self._winddown.woken
        idle_s = 0.0 if busy_s is None else asyncio.get_running_loop().time() - busy_s
        until, woken_by = (None, "") if woken is None else woken
        want = StoredWant(target, now - timedelta(seconds=idle_s), until, woken_by, now)
        if self._is_worth_it(want):
            with suppress(StateDirectoryError):  # the service goes on from memory, and it is tried again
                await self._store.save_want(self._service, want)
                self._kept = want

    async def forget(self) -> None:
        """Nothing is left of the service: its next start begins at the bottom."""
        with suppress(StateDirectoryError):
            await self._store.forget_want(self._service)

    def _is_worth_it(self, want: StoredWant) -> bool:
        kept = self._kept
        if kept is None or (kept.target, kept.woken_by) != (want.target, want.woken_by):
            return True
        # A service that rests has nothing to lose, and leaves the disk alone.
        busy = (want.busy_at - kept.busy_at).total_seconds() > _CLOCKS_DIFFER_S
        lasting = want.target > 0 or want.awake_until is not None or busy
        return lasting and (want.at - kept.at).total_seconds() >= self._every_s
