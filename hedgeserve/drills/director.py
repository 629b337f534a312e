"""Does drills in a running service, one at a time: makes the trouble, watches what comes of it, and reports.

Nothing of a drill outlives the process but what it has done to VMs, and the journal's word that it was a drill.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import structlog

from hedgeserve.drills.choice import can_go
from hedgeserve.drills.price import Rest, foresee, foresee_rest
from hedgeserve.drills.request import DrillKind, DrillRequest
from hedgeserve.drills.review import Watch, review
from hedgeserve.drills.script import Means, Script, Victim, write_script
from hedgeserve.drivers.base import Driver
from hedgeserve.drivers.staged import Stage
from hedgeserve.errors import CloudError, LimitError, StateDirectoryError
from hedgeserve.fleet import EventKind, Fleet, Journal
from hedgeserve.hedge import Leaving, Plan, Scene
from hedgeserve.metrics import Metrics
from hedgeserve.replica import Notice, ReplicaId
from hedgeserve.spec import Spec
from hedgeserve.store import Store

_LOOK_EVERY_S = 0.2
_EVENTS_SEEN = 1000
_SOURCE = "a drill: HedgeServe itself"

_log = structlog.get_logger("hedgeserve.core")


class Preempting(Protocol):
    """A driver whose cloud takes a VM back when it is asked to; ``notice_s`` only where the cloud lets us say."""

    async def preempt(self, machine_id: str, *, notice_s: float | None = None) -> None:
        """Have this spot VM preempted."""


class Silencing(Protocol):
    """A driver that can have a VM fall silent, as one does whose cable is cut."""

    async def vanish(self, machine_id: str) -> None:
        """Have this spot VM fall silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """What a drill works with. ``drivers`` are those without a stage before them, ``spec`` is that served now."""

    spec: Callable[[], Spec]
    fleet: Fleet
    drivers: Mapping[str, Driver]
    stage: Stage
    journal: Journal
    store: Store
    metrics: Metrics
    plan: Callable[[], Plan]
    scene: Callable[[], Scene]
    outstanding: Callable[[ReplicaId], int]
    leaving: Callable[[], Leaving]
    begin: Callable[[], None]
    end: Callable[[], None]


class Director:
    """Plans drills, does them, and keeps the report of the last one."""

    def __init__(self, cast_: Cast) -> None:
        self._cast = cast_
        self._asked: asyncio.Queue[tuple[str, Script]] = asyncio.Queue()
        self._busy = ""
        self._silenced: set[ReplicaId] = set()
        self._last: dict[str, Any] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """That a drill goes on, for the status."""
        return (f"a drill goes on: {self._busy}",) if self._busy else ()

    def plan(self, request: DrillRequest) -> Script:
        """What this drill would do now.

        Raises:
            DrillError: It cannot be done here.
        """
        cast_, spec = self._cast, self._cast.spec()
        zones = sorted({offer.zone for offer in cast_.fleet.offers()})
        return write_script(
            request,
            cast_.fleet.replicas(),
            zones=zones,
            wanted=self._wanted(),
            needed=cast_.plan().target,
            boot_s=cast_.fleet.boot_s(),
            found_s=(spec.probe.interval + spec.probe.timeout) * spec.probe.failure_threshold,
            drain_s=spec.timeouts.drain,
            local_notice_s=spec.local.notice,
            fis=bool(spec.aws.fis_role),
            outstanding=cast_.outstanding,
            leaving=cast_.leaving(),
        )

    async def begin(self, request: DrillRequest) -> tuple[str, Script]:
        """Begin this drill; its name, and what it does.

        Raises:
            DrillError: It cannot be done here.
            LimitError: Another one goes on, or no replica would be left ready.
        """
        if self._busy:
            raise LimitError(f"{self._busy} goes on; one drill at a time")
        script = self.plan(request)
        if script.refusal:
            raise LimitError(script.refusal)
        script = await self._priced(script)
        if self._busy:  # since then
            raise LimitError(f"{self._busy} goes on; one drill at a time")
        self._busy = f"{request.kind}-{secrets.token_hex(3)}"
        self._asked.put_nowait((self._busy, script))
        return self._busy, script

    async def rehearse(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`plan` says and what it costs, from JSON to JSON."""
        return script_document(await self._priced(self.plan(DrillRequest.read(asked))))

    async def start(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`begin` does, from JSON to JSON."""
        name, script = await self.begin(DrillRequest.read(asked))
        return {"drill": name, **script_document(script)}

    def report(self) -> Mapping[str, Any]:
        """What goes on, and the report of the last drill that has ended; None where there was none."""
        return {"running": self._busy or None, "last": self._last}

    async def _priced(self, script: Script) -> Script:
        if script.taking is None:
            return script
        # As when it explains: the policy is asked many times over, a copy, in a thread.
        return script.priced(await asyncio.to_thread(foresee, self._scene(), script.taking))

    def _scene(self) -> Scene:
        scene = self._cast.scene()
        return replace(scene, policy=deepcopy(scene.policy))

    async def run(self) -> None:
        """Do what is asked for; returns only when cancelled."""
        while True:
            name, script = await self._asked.get()
            try:
                await self._perform(name, script)
            except Exception as error:
                _log.exception("a drill failed", drill=name)
                self._last = {"drill": name, "ok": False, "cut_short": repr(error)}
            finally:
                self._busy = ""

    async def _perform(self, name: str, script: Script) -> None:
        cast_, loop = self._cast, asyncio.get_running_loop()
        told = {
            "drill": name,
            "victims": [victim.replica for victim in script.victims],
            "zones": list(script.zones),
        }
        fleet, before, events = cast_.fleet, cast_.metrics.fates(), await self._newest_event()
        # The journal first: whoever reads it must know that what follows was made.
        await cast_.journal.event(EventKind.DRILL, f"{name} begins: {'; '.join(script.sentences)}", data=told)
        watch = Watch(
            known=frozenset(replica.id for replica in fleet.replicas()),
            victims=frozenset(victim.replica for victim in script.victims),
            wanted=script.wanted,
            usd_per_hour=fleet.usd_per_hour(),
            calm=() if script.price is None else script.price.calm,
        )
        begun_s, cut_short = loop.time(), ""
        cast_.begin()
        cast_.metrics.drilling(True)
        try:
            self._set(script)
            async with asyncio.TaskGroup() as group:
                taking = group.create_task(self._take(script), name=f"drill {name}")
                while True:
                    for replica in fleet.replicas():
                        if replica.vm_id in cast_.stage.held:
                            fleet.stage(replica.id)
                    at_s = loop.time() - begun_s
                    no_capacity = {*fleet.in_doubt, *self._silenced}
                    watch.look(fleet.replicas(), wanted=self._wanted(), at_s=at_s, doubted=no_capacity)
                    if taking.done() and (cut_short := taking.result()):
                        break
                    if at_s >= script.request.for_s and (watch.well or at_s >= script.within_s):
                        break
                    await asyncio.sleep(_LOOK_EVERY_S)
                taking.cancel()
        finally:
            self._silenced.clear()
            cast_.stage.lift()
            cast_.metrics.drilling(False)
            cast_.end()
        rest = Rest()
        if script.taking is not None:
            passed_s = loop.time() - begun_s
            due = {one: at_s - passed_s for one, at_s in (script.price.due if script.price else ())}
            rest = await asyncio.to_thread(foresee_rest, self._scene(), watch.known, script.taking.boot_s, due)
        found = review(
            drill=name,
            kind=script.request.kind,
            watch=watch,
            fates=cast_.metrics.fates().since(before),
            within_s=script.within_s,
            took_s=loop.time() - begun_s,
            events=await self._events(events),
            needed=script.needed,
            rest=rest,
            cut_short=cut_short,
        )
        self._last = found.document()
        await cast_.journal.event(
            EventKind.DRILL, f"{name} is over: {found.sentence()}", data=told | {"ok": found.ok}
        )

    def _wanted(self) -> int:
        plan = self._cast.plan()
        return plan.spot_wanted + plan.on_demand_wanted

    def _set(self, script: Script) -> None:
        request, stage, now_s = script.request, self._cast.stage, asyncio.get_running_loop().time()
        match request.kind:
            case DrillKind.BLACKOUT | DrillKind.REFUSE:
                stage.refuse(script.zones, now_s + request.for_s)
            case DrillKind.SLOW_BOOT:
                stage.slow_down(request.by_s, now_s + request.for_s)
            case DrillKind.API_DOWN:
                stage.silence(script.cloud, now_s + request.for_s)

    async def _take(self, script: Script) -> str:
        """Take the victims away, all at once; what stood in the way, empty where nothing did."""
        there = {replica.id for replica in self._cast.fleet.replicas() if can_go(replica)}
        victims = [victim for victim in script.victims if victim.replica in there]
        if script.victims and not victims:
            return "what was to be taken has gone by itself just before"
        outcomes = await asyncio.gather(*(self._take_one(victim) for victim in victims), return_exceptions=True)
        troubles = []
        for victim, outcome in zip(victims, outcomes, strict=True):
            if isinstance(outcome, CloudError | TimeoutError) and self._has_heard(victim):
                # An experiment whose VM has drained and been ended before its time fails, and nobody minds.
                _log.info(
                    "a drill's cloud had trouble after the notice", replica=victim.replica, error=str(outcome)
                )
            elif isinstance(outcome, CloudError | TimeoutError):
                troubles.append(f"{victim.replica} could not be taken: {outcome or 'no answer in time'}")
            elif isinstance(outcome, BaseException):
                raise outcome
        return "; ".join(troubles)

    def _has_heard(self, victim: Victim) -> bool:
        """Whether it has had its notice, or is gone."""
        there = [one for one in self._cast.fleet.replicas() if one.id == victim.replica]
        return all(one.notice is not None for one in there)

    async def _take_one(self, victim: Victim) -> None:
        cast_ = self._cast
        driver: object = cast_.drivers[victim.cloud]
        cast_.fleet.stage(victim.replica)
        patience_s = cast_.spec().timeouts.cloud_call
        match victim.means:
            case Means.CLOUD:
                # AWS is followed to the VM's end.
                async with asyncio.timeout(patience_s + (victim.notice_s or 0.0)):
                    await cast(Preempting, driver).preempt(victim.vm_id, notice_s=victim.notice_s)
            case Means.SILENCE:
                async with asyncio.timeout(patience_s):
                    await cast(Silencing, driver).vanish(victim.vm_id)
                self._silenced.add(victim.replica)
            case Means.TERMINATE:
                async with asyncio.timeout(patience_s):
                    await cast_.drivers[victim.cloud].terminate(victim.vm_id)
                self._silenced.add(victim.replica)
            case Means.ANNOUNCE:
                await self._announce(victim, patience_s)
        cast_.fleet.stage(victim.replica)  # and have its cloud asked now

    async def _announce(self, victim: Victim, patience_s: float) -> None:
        notice_s = victim.notice_s or 0.0
        deadline_s = asyncio.get_running_loop().time() + notice_s
        await self._cast.fleet.announce(victim.replica, Notice(deadline_s, _SOURCE))
        loop = asyncio.get_running_loop()
        while loop.time() < deadline_s:
            if all(replica.id != victim.replica for replica in self._cast.fleet.replicas()):
                return  # it drained, and the fleet has ended it itself
            await asyncio.sleep(_LOOK_EVERY_S)
        async with asyncio.timeout(patience_s):
            await self._cast.drivers[victim.cloud].terminate(victim.vm_id)

    async def _newest_event(self) -> int:
        with suppress(StateDirectoryError):
            if newest := await self._cast.store.events(limit=1, newest=True):
                return newest[-1].id
        return 0

    async def _events(self, after: int) -> Sequence[Mapping[str, Any]] | None:
        """What has happened since; None where the journal cannot be read."""
        with suppress(StateDirectoryError):
            found = await self._cast.store.events(after=after, limit=_EVENTS_SEEN)
            return [
                {
                    "kind": one.kind,
                    "replica": one.replica,
                    "zone": one.zone,
                    "message": one.message,
                    "data": one.data or {},
                }
                for one in found
            ]
        return None


def script_document(script: Script) -> dict[str, Any]:
    """What a drill does, JSON-able, for whoever is to say yes to it."""
    return {
        "kind": str(script.request.kind),
        "victims": [
            {
                "replica": victim.replica,
                "zone": victim.zone,
                "means": str(victim.means),
                "notice_s": victim.notice_s,
            }
            for victim in script.victims
        ],
        "zones": list(script.zones),
        "cloud": script.cloud,
        "ready": script.ready_before,
        "within_s": round(script.within_s, 1),
        "usd": 0.0 if script.price is None else round(max(0.0, script.price.least_usd), 6),
        "most_usd": 0.0 if script.price is None else round(max(0.0, script.price.most_usd), 6),
        "sentences": list(script.sentences),
        "refusal": script.refusal,
    }
