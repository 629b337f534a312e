"""The service at rest: what the calendar and a person's pause come to, told to the journal and the endpoint."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from hedgeserve.balancer import Balancer, Closed, Closure
from hedgeserve.errors import StateDirectoryError
from hedgeserve.fleet import EventKind
from hedgeserve.hedge import Autoscaler, LoadSignal, Pause, Rest, Standing, WindDown
from hedgeserve.spec import Spec
from hedgeserve.store import Store
from hedgeserve.units import format_duration
from hedgeserve.wanted import Wanted

_CLOSED = {Rest.ASLEEP: Closed.ASLEEP, Rest.PAUSED: Closed.PAUSED}
_KINDS = {Rest.AWAKE: EventKind.AWAKE, Rest.ASLEEP: EventKind.ASLEEP, Rest.PAUSED: EventKind.PAUSED}


class Resting:
    """Whether the service runs, kept over restarts; the endpoint opens and closes with it.

    A pause is on disk before anything goes, being woken before anything is launched: a controller that is killed
    meanwhile goes on with it.
    """

    def __init__(
        self,
        spec: Spec,
        store: Store,
        record: Callable[[EventKind, str], Awaitable[None]],
        autoscaler: Autoscaler,
    ) -> None:
        self._service = spec.service.name
        self._record = record
        self._store = store
        self._winddown = WindDown(spec.schedule, spec.replicas)
        self._wanted = Wanted(spec, store, autoscaler, self._winddown)
        self._told: Rest | None = None
        self._on_disk = False
        self.standing = self._winddown.decide(_now(), None, boot_s=None)
        self.shut: Closure | None = None
        """What keeps the endpoint closed though the service is awake; nobody else closes or opens it."""

    def adopt(self, spec: Spec) -> None:
        """Go by this spec's calendar and bounds from the next look on; a pause goes on."""
        self._winddown.adopt(spec.schedule, spec.replicas)
        self._wanted.adopt(spec)

    async def recall(self) -> int | None:
        """Take up an earlier run's waking, pause and wants; how many replicas it wanted, where that holds."""
        target = await self._wanted.recall(_now())
        known = await self._store.load_pause(self._service)
        if known is not None:
            since, until, drain_s = known
            self._winddown.pause(Pause(since, until, drain_s))
            self._on_disk = True
        self.standing = self._winddown.decide(_now(), None, boot_s=None)
        return target

    async def keep(self, target: int) -> None:
        """Have it on disk that so many replicas are wanted, before any is launched for it."""
        await self._wanted.keep(_now(), target)

    async def look(self, signal: LoadSignal, balancer: Balancer, *, boot_s: float | None) -> Standing:
        """What holds now; a change is journalled, and the endpoint told."""
        standing = self._winddown.decide(_now(), signal, boot_s=boot_s)
        self.standing = standing
        if self._on_disk and self._winddown.paused is None:
            await self._forget("the time that it was to last is over")
        self.tell(balancer)
        if standing.rest is not self._told:
            if standing.rest is Rest.ASLEEP or (standing.rest is Rest.AWAKE and self._told is Rest.ASLEEP):
                await self._record(_KINDS[standing.rest], standing.reason or "the hours of sleep are over")
            self._told = standing.rest
        return standing

    def tell(self, balancer: Balancer) -> None:
        """Open or close the endpoint as the standing is; known before its first request."""
        standing = self.standing
        if standing.rest is Rest.AWAKE or standing.on_request:
            if balancer.closure is not self.shut:
                balancer.close(self.shut)
            return
        opens_at_s = None
        if standing.until is not None:
            left_s = (standing.until - _now()).total_seconds()
            opens_at_s = asyncio.get_running_loop().time() + left_s
        balancer.close(Closure(_CLOSED[standing.rest], _sentence(standing), opens_at_s))

    async def pause(self, *, for_s: float | None, drain_s: float | None) -> dict[str, Any]:
        """Rest from now on; what was asked for, once it is on disk.

        Raises:
            StateDirectoryError: It could not be written down, and nothing has changed.
        """
        now = _now()
        until = None if for_s is None else now + timedelta(seconds=for_s)
        await self._store.save_pause(self._service, since=now, until=until, drain_s=drain_s)
        self._on_disk = True
        self._winddown.pause(Pause(now, until, drain_s))
        self.standing = self._winddown.decide(now, None, boot_s=None)
        how_long = "until somebody resumes" if for_s is None else f"for {format_duration(for_s)}"
        await self._record(EventKind.PAUSED, f"paused {how_long}: no new requests, and all VMs go")
        self._told = Rest.PAUSED
        return self.document()

    async def resume(self) -> dict[str, Any]:
        """Run again; in hours of sleep, for as long as a request would have woken it.

        Raises:
            StateDirectoryError: It could not be written down, and nothing has changed.
        """
        before = self.standing
        await self._store.end_pause(self._service)
        self._on_disk = False
        self._winddown.resume(_now())
        self.standing = self._winddown.decide(_now(), None, boot_s=None)
        await self._wanted.keep(_now())
        if before.rest is not Rest.AWAKE:
            after = "paused" if before.rest is Rest.PAUSED else "asleep"
            why = f"; {self.standing.reason}" if self.standing.reason else ""
            await self._record(EventKind.RESUMED, f"resumed by a person; the service was {after}{why}")
            self._told = Rest.AWAKE
        return {"was": str(before.rest), **self.document()}

    async def begin_anew(self) -> None:
        """No VM is left: the next start wants what the spec and its own load ask for."""
        await self._wanted.forget()

    async def forget(self) -> None:
        """Nothing is left of the service: its next start is not paused. A full disk keeps the pause."""
        with suppress(StateDirectoryError):
            await self._store.end_pause(self._service)

    def document(self) -> dict[str, Any]:
        """The standing as the status shows it, JSON-able."""
        standing = self.standing
        return {
            "rest": str(standing.rest),
            "why": standing.reason,
            "until": None if standing.until is None else standing.until.isoformat(timespec="seconds"),
            "next": standing.next_up,
            "wakes_on_request": standing.on_request,
        }

    def notes(self, target: int, boot_s: float | None) -> tuple[str, ...]:
        """What a person should know of it: why there are no replicas and what brings them, or which hours hold."""
        standing = self.standing
        if standing.rest is Rest.AWAKE and target == 0:
            takes = f", about {format_duration(round(boot_s))} going by the last boots" if boot_s else ""
            return (f"no request needs a replica; the next one starts one and waits for it{takes}",)
        if not standing.reason:
            return ()
        if standing.rest is Rest.ASLEEP:
            wakes = "a request" if standing.on_request else "`hedgeserve resume`"
            return (f"{standing.reason}; {wakes} wakes it before",)
        return (standing.reason,)

    @property
    def why_nothing_runs(self) -> str:
        """Why the service runs no VM whatever its load, and what ends that; empty while it is awake."""
        return "" if self.standing.rest is Rest.AWAKE else self.notes(0, None)[0]

    async def _forget(self, why: str) -> None:
        try:
            await self._store.end_pause(self._service)
        except StateDirectoryError:  # the row tells its own end, and is tried again
            return
        self._on_disk = False
        self._told = Rest.AWAKE
        await self._record(EventKind.RESUMED, f"the pause has ended: {why}")


def _sentence(standing: Standing) -> str:
    if standing.rest is Rest.PAUSED:
        until = f" until {standing.until:%Y-%m-%d %H:%M} UTC" if standing.until else ""
        return f"The service is paused{until}; try again then." if until else "The service is paused."
    return f"The service is {standing.reason.partition(' (')[0]}; try again then."


def _now() -> datetime:
    return datetime.now(UTC)
