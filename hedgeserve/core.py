"""The service: puts the parts together, starts them, ticks, and takes them down again.

The only room that knows everybody. It decides nothing itself: the autoscaler says how many replicas the load
needs, the policy where they should be, the fleet sees to it, the balancer uses what is ready.
"""

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from hedgeserve._version import __version__
from hedgeserve.adviser import Adviser
from hedgeserve.balancer import Balancer
from hedgeserve.departure import Orders, depart
from hedgeserve.drills.director import Cast, Director
from hedgeserve.drivers import make_drivers
from hedgeserve.drivers.base import Driver
from hedgeserve.drivers.staged import Stage
from hedgeserve.entrance import Entrance
from hedgeserve.feasible import engine_for
from hedgeserve.fleet import EventKind, Fleet, FleetParts, Journal, read_credentials
from hedgeserve.hedge import (
    Autoscaler,
    LoadSignal,
    Observation,
    Plan,
    Rest,
    ScaleDecision,
    ZoneNews,
    counted,
    rest_plan,
    spared,
)
from hedgeserve.metrics import Metrics
from hedgeserve.modelfile.apikeys import (
    keys_are_issued,
    load_api_keys,
    refuse_open_sockets,
    refuse_other_admin_sockets,
)
from hedgeserve.money import Money
from hedgeserve.picture import Picture, Present
from hedgeserve.replica import STARTING, ReplicaId, State
from hedgeserve.rollouts import Around, Rollouts
from hedgeserve.spanexport import start_tracing
from hedgeserve.spec import Cloud, Spec
from hedgeserve.statedir import StateDirectory, resolve_state_dir
from hedgeserve.statedisk import StateDisk
from hedgeserve.store import Store, knows_replicas
from hedgeserve.updates import Updates
from hedgeserve.upkeep import forget_versions, measure_lag, prune
from hedgeserve.web.admin import Admin
from hedgeserve.web.sampler import Sampler
from hedgeserve.winddown import Resting

_log = structlog.get_logger("hedgeserve.core")

_TICK_S = 1.0
_SETTLE_S = 10.0


class Service:
    """A running HedgeServe::

        async with Service(load_spec("model.toml")) as service:
            print(service.url)
            await service.run_until_stopped()

    Entering starts the endpoint and the fleet; leaving lets running requests finish (``timeouts.drain``), then
    terminates or keeps the VMs as ``service.on_exit`` says.

    ``api_keys`` are the keys that clients must show; None reads them as model.toml says. ``transcript`` names a
    file that everything the policy is told and answers is added to, for ``hedgeserve replay``. ``sockets`` are
    listening ones to answer on in place of ``service.listen``; somebody else holds them too, so nobody is refused
    there when the service stops. ``admin_sockets`` are the same for ``admin.listen``, whose address they must
    have.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        api_keys: frozenset[str] | None = None,
        environ: Mapping[str, str] | None = None,
        transcript: Path | None = None,
        sockets: Sequence[socket.socket] = (),
        admin_sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Nothing is started yet.

        Raises:
            SpecError: The API keys cannot be read, a public address would be served without any, or the engine
                cannot be started as the spec says.
        """
        self.spec = spec
        self._environ = os.environ if environ is None else environ
        engine_for(spec, self._environ)
        self._api_keys = load_api_keys(spec, self._environ) if api_keys is None else api_keys
        self._sockets, self._admin_sockets = sockets, admin_sockets
        refuse_other_admin_sockets(spec, admin_sockets)
        self.asks_for_keys = bool(self._api_keys) or keys_are_issued(spec, self._environ)
        refuse_open_sockets(spec, sockets, asks_for_keys=self.asks_for_keys)
        self._state_path = resolve_state_dir(spec.service.name, spec.service.state_dir, self._environ)
        self._started_at = datetime.now(UTC)
        self._state = "starting"
        self._adviser = Adviser(spec.hedge_for_load())
        self._autoscaler = Autoscaler(spec.replicas)
        self._metrics = Metrics()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._orders = Orders()
        self._left = ""
        self._plan = Plan(target=spec.replicas.lowest, spot_wanted=0, on_demand_wanted=0)
        self._scale = ScaleDecision(
            spec.replicas.lowest, spec.replicas.lowest, 0.0, "the service has just started"
        )
        self._tick_trouble = ""
        self._ticked_at_s: float | None = None
        self._moved = asyncio.Event()
        self._stack = AsyncExitStack()
        self._transcript_path = transcript
        self._ticker: asyncio.Task[None] | None = None
        self._directory: StateDirectory
        self._store: Store
        self._journal: Journal
        self._disk: StateDisk
        self._resting: Resting
        self._money: Money
        self._drivers: Mapping[str, Driver]
        self._balancer: Balancer
        self._entrance: Entrance
        self._fleet: Fleet
        self._admin: Admin
        self._sampler: Sampler
        self._director: Director
        self._rollouts: Rollouts
        self._updates: Updates
        self._picture: Picture

    # Start and end

    async def __aenter__(self) -> Self:
        """Start everything; when this returns the endpoint answers and the fleet is reconciled.

        Raises:
            StateLockedError: Another instance uses this state directory.
            StateDirectoryError: The state directory cannot be used.
            ListenError: The address is taken.
            CloudError: A cloud cannot be listed.
            TranscriptError: The transcript cannot be written.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        enter, spec = self._stack.enter_async_context, self.spec
        self._directory = await asyncio.to_thread(StateDirectory.open, self._state_path, service=spec.service.name)
        self._stack.push_async_callback(asyncio.to_thread, self._let_go)
        self._store = await Store.open(self._directory.journal)
        self._stack.push_async_callback(self._store.close)
        generation = await self._store.acquire_lease(f"{socket.gethostname()}:{os.getpid()}")
        self._journal = Journal(self._store, spec.service.name)
        self._disk = StateDisk(self._directory.path, self._store, self._record)
        if self._transcript_path is not None:
            await enter(await self._adviser.open_transcript(self._transcript_path))
        await self._adviser.recall(self._store)
        stored = await self._store.alive_replicas(spec.service.name)
        await forget_versions(self._store, spec.service.name)
        self._rollouts = Rollouts(spec, self._store, self._journal, self._metrics, self._environ)
        await self._rollouts.open(stored)
        self._updates = Updates(self._rollouts, self._journal, self._environ)
        spec = self.spec = self._rollouts.spec
        self._sampler = Sampler(self._metrics, self._store)
        await self._sampler.recall(time.time())
        self._resting = Resting(spec, self._store, self._record, self._autoscaler)
        if (wanted := await self._resting.recall()) is not None:
            self._plan = replace(self._plan, target=wanted)
        self._money = Money(spec, self._store, self._directory.journal, self._metrics, self._record)
        await self._money.recall(vms=bool(stored))
        self._journal.paid = self._money.paid
        has_vms = any(cloud is not Cloud.STATIC for cloud in spec.clouds())
        credentials = await read_credentials(self._directory.ssh_dir) if has_vms else None
        tracing = await start_tracing(spec, self._environ)
        if tracing is not None:
            self._stack.push_async_callback(tracing.aclose)
        self._balancer = Balancer(
            spec,
            self._metrics,
            api_keys=self._api_keys,
            boot_eta_s=self._boot_eta_s,
            on_wait=self._wake.set,
            on_silence=lambda replica: self._fleet.suspect(replica),
            own_trust=credentials.authority.trust if credentials else None,
            tracing=tracing,
        )
        self._resting.tell(self._balancer)
        self._entrance = Entrance(self._directory.path, self._balancer, self._metrics)
        await self._entrance.open()
        self._stack.push_async_callback(self._entrance.keep_used)
        # The address first: if it is taken, nothing must have been launched.
        await self._balancer.start(self._sockets)
        self._stack.push_async_callback(self._balancer.aclose)
        self._drivers, externals = make_drivers(spec, self._directory.local_dir, self._environ)
        for driver in self._drivers.values():
            self._stack.push_async_callback(driver.aclose)
        stage = Stage()
        self._fleet = await enter(
            Fleet(
                FleetParts(
                    spec=spec,
                    editions=self._rollouts.editions,
                    wanted=self._rollouts.wanted,
                    engine_key=await asyncio.to_thread(self._directory.secret, "engine_key"),
                    drivers=stage.before(self._drivers),
                    externals=externals,
                    credentials=credentials,
                    journal=self._journal,
                    metrics=self._metrics,
                    traffic=self._balancer,
                    news=self._learn,
                    changed=self._changed,
                    tracing=tracing,
                    ended=self._rollouts.ended,
                )
            )
        )
        self._balancer.adopt(spec, self._rollouts.models)
        self._rollouts.begin(
            Around(
                counts=self._balancer.counts,
                replicas=self._fleet.replicas,
                assign=self._fleet.assign,
                adopt=self._adopt,
                usd_per_hour=self._usd_per_hour,
                forget=self._adviser.forget,
                plan=lambda: self._plan,
            )
        )
        self._metrics.watch_troubles(
            {
                "journal": lambda: bool(self._disk.trouble),
                "control_loop": lambda: bool(self._tick_trouble),
                "entrance": lambda: bool(self._entrance.troubles),
                "transcript": lambda: bool(self._adviser.trouble),
                **{cloud: partial(self._is_troubled, cloud) for cloud in self._drivers},
            }
        )
        self._director = Director(
            Cast(
                spec=lambda: self.spec,
                fleet=self._fleet,
                drivers=self._drivers,
                stage=stage,
                journal=self._journal,
                store=self._store,
                metrics=self._metrics,
                plan=lambda: self._plan,
                scene=lambda: self._picture.scene(),
                outstanding=self._balancer.outstanding,
                leaving=lambda: self._rollouts.leaving,
                begin=lambda: self._adviser.lessons.begin(self._adviser.policy),
                end=self._unlearn,
            )
        )
        self._picture = Picture(
            present=self._present,
            started_at=self._started_at,
            balancer=self._balancer,
            fleet=self._fleet,
            adviser=self._adviser,
            rollouts=self._rollouts,
            updates=self._updates,
            resting=self._resting,
            money=self._money,
            director=self._director,
            journal=self._journal,
            store=self._store,
            disk=self._disk,
            entrance=self._entrance,
        )
        self._admin = Admin(self, self._directory.admin_socket)
        await self._admin.start()
        self._journal.heard = self._admin.bell.ring
        self._stack.push_async_callback(self._admin.aclose)
        if spec.admin.listen:
            token = await asyncio.to_thread(self._directory.secret, "admin_token")
            await self._admin.open_site(
                spec.admin, token, service=spec.service.name, inherited=self._admin_sockets
            )
            await self._entrance.watch_certificate(self._admin.certificate)
        served = await self._fleet.start(stored)
        self._stack.push_async_callback(self._money.keep)
        group = await enter(asyncio.TaskGroup())
        background = [
            group.create_task(measure_lag(self._metrics), name="loop lag"),
            group.create_task(prune(self._store, self._sampler, spec.service.name), name="prune"),
            group.create_task(self._disk.watch(), name="state disk"),
            group.create_task(self._entrance.watch(), name="entrance"),
            group.create_task(self._sampler.run(), name="history"),
            group.create_task(self._money.run(), name="money"),
            group.create_task(self._director.run(), name="drills"),
        ]
        self._ticker = group.create_task(self._tick_for_ever(served), name="tick")
        self._stack.callback(lambda: [task.cancel() for task in [*background, self._ticker] if task])
        self._state = "serving"
        await self._journal.event(
            EventKind.STARTED,
            f"HedgeServe {__version__} serves {spec.model.id} at {self.url}",
            data={"generation": generation, "pid": os.getpid()},
        )

    def _let_go(self) -> None:
        """Let the state directory go; a start that came to nothing leaves none that was not there. Blocking."""
        if self._state == "starting" and not knows_replicas(self._directory.journal):
            self._directory.forget()
        else:
            self._directory.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                self._orders.now.set()  # an error or a cancellation: no time for other people's requests
            await self._wind_down()
        finally:
            # Closed as if all were well: the task groups would wrap the error of whoever embeds us.
            await self._stack.aclose()

    async def run_until_stopped(self) -> None:
        """Return once somebody has asked the service to stop."""
        await self._stop.wait()

    def request_stop(self, *, now: bool = False) -> None:
        """Ask the service to stop: after its running requests, or ``now``."""
        self._stop.set()
        if now:
            self._orders.now.set()

    async def reload(self) -> bool:
        """Read model.toml, issued keys and certificates again and go by them; false where model.toml was not
        applied, which is logged."""
        await self._entrance.renew()
        return await self._updates.reload()

    def request_down(self) -> None:
        """Ask the service to stop and to terminate every VM, whatever ``service.on_exit`` says."""
        self._orders.everything = True
        self._stop.set()

    async def pause(self, *, for_s: float | None = None, drain_s: float | None = None) -> dict[str, Any]:
        """Let running requests finish (``drain_s``; None: ``timeouts.drain``), then run no VM, over restarts too.

        The endpoint stays up and answers 503 ``service_paused``. It ends after ``for_s``, or with :meth:`resume`.
        """
        told = await self._resting.pause(for_s=for_s, drain_s=drain_s)
        self._resting.tell(self._balancer)
        self._wake.set()
        return told

    async def resume(self) -> dict[str, Any]:
        """End a pause, launch at once; in hours of sleep, wake for ``schedule.awake_for``."""
        told = await self._resting.resume()
        self._resting.tell(self._balancer)
        self._wake.set()
        return told

    async def _wind_down(self) -> None:
        self._state = "stopping"
        if self._ticker is not None:
            self._ticker.cancel()  # first of all: nothing is launched any more
            self._ticked_at_s = None
        self._left = await depart(
            self.spec,
            self._orders,
            balancer=self._balancer,
            fleet=self._fleet,
            journal=self._journal,
            resting=self._resting,
            money=self._money,
            clouds=self._drivers,
            ran_s=(datetime.now(UTC) - self._started_at).total_seconds(),
        )

    # The tick

    async def _tick_for_ever(self, served: frozenset[ReplicaId]) -> None:
        """Observe, decide, act: every second, and at once when something has happened."""
        await self._settle(served)
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            begun_s = self._ticked_at_s = clock()
            try:
                await self._tick()
                self._tick_trouble = ""
                self._metrics.ticked(clock() - begun_s)
            except Exception as error:  # the balancer serves on from its last snapshot whatever happens here
                _log.exception("the control loop failed; trying again")
                self._tick_trouble = repr(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._wake.wait()

    async def _settle(self, served: frozenset[ReplicaId]) -> None:
        """Give replicas that served before a restart a moment to say so, or on-demand would be bought for them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                while any(r.id in served and r.state in STARTING for r in self._fleet.replicas()):
                    self._moved.clear()
                    await self._moved.wait()

    async def _tick(self) -> None:
        now_s, load = asyncio.get_running_loop().time(), self._balancer.load()
        signal = LoadSignal(now_s, load.arrived_total, queued=load.queued, in_flight=load.in_flight)
        standing = await self._resting.look(signal, self._balancer, boot_s=self._fleet.boot_s())
        decision = self._autoscaler.decide(signal, standing.bounds)
        if decision.target != self._plan.target:
            await self._record(
                EventKind.SCALED, f"{self._plan.target} → {decision.target} replicas: {decision.reason}"
            )
        self._scale = decision
        await self._resting.keep(decision.target)
        observation = Observation(
            now_s,
            decision.target,
            replicas=self._fleet.replicas(),
            offers=self._adviser.left(self._fleet.offers(), now_s),
            runs=(self._rollouts.wanted,),
        )
        if standing.rest is not Rest.AWAKE:  # the policy is not asked, and a transcript has nothing to tell of it
            plan = rest_plan(standing, observation, datetime.now(UTC))
        else:
            doubted = await self._fleet.doubted()
            plan = await self._rollouts.plan(counted(observation, doubted), self._adviser.plan)
            plan = spared(plan, doubted)
        held = await self._money.hold(plan, observation, unbilled_usd=self._fleet.unbilled_usd())
        plan = held.plan
        if self._resting.shut is None or held.shut is None:
            self._resting.shut = self._money.closure(held)
        self._resting.tell(self._balancer)
        for note in plan.notes:
            if note not in self._plan.notes:
                await self._record(EventKind.NOTE, note)
        self._plan = plan
        await self._fleet.apply(plan)
        await self._adviser.remember(now_s)
        self._metrics.set_replicas(self._fleet.replicas())
        self._metrics.planned(plan)
        self._sampler.read(
            time.time(),
            target=plan.target,
            queued=load.queued,
            in_flight=load.in_flight,
            replicas=self._fleet.replicas(),
            offers=self._fleet.offers(),
        )

    def _changed(self) -> None:
        self._balancer.update(self._fleet.snapshot())
        self._moved.set()
        self._wake.set()

    def _learn(self, news: ZoneNews) -> None:
        self._adviser.learn(news, self._fleet.offers())
        self._wake.set()

    def _unlearn(self) -> None:
        self._adviser.unlearn()
        self._wake.set()

    async def _adopt(self) -> None:
        """Go by the spec that is wanted now; no connection, no request and no replica is dropped for it."""
        before, spec = self.spec, self._rollouts.spec
        await self._fleet.adopt(spec, self._rollouts.editions, self._rollouts.wanted)
        self.spec = spec
        self._balancer.adopt(spec, self._rollouts.models)
        await self._adviser.adopt(spec.hedge_for_load())
        if spec.replicas != before.replicas:
            self._autoscaler.adopt(spec.replicas)
        self._resting.adopt(spec)
        self._money.adopt(spec)
        self._wake.set()

    def _usd_per_hour(self, spec: Spec | None) -> float | None:
        if spec is None:
            return self._fleet.usd_per_hour()
        return self._adviser.settled_usd_per_hour(spec, self._plan.target, self._fleet.offers())

    # What others may see

    @property
    def url(self) -> str:
        """The endpoint's base URL, such as ``http://127.0.0.1:8000``."""
        return self._balancer.url

    @property
    def dashboard_url(self) -> str:
        """The dashboard's address, without a way in; empty where ``admin.listen`` names none."""
        return self._admin.url

    def dashboard_link(self) -> str:
        """The same with a word that signs one browser in, once, within the hour; a secret for as long."""
        return self._admin.link()

    @property
    def entrance(self) -> Entrance:
        """Who may come in, and by which certificate."""
        return self._entrance

    @property
    def admin_socket(self) -> Path:
        """The Unix socket of the admin API."""
        return self._directory.admin_socket

    async def wait_ready(self, replicas: int = 1) -> None:
        """Return once so many replicas are ready."""
        while self._count_ready() < replicas:
            self._moved.clear()
            await self._moved.wait()

    def status(self) -> dict[str, Any]:
        """Everything at a glance, JSON-able; the shape is described in ``docs/cli.md``."""
        return self._picture.status()

    @property
    def state(self) -> str:
        """``starting``, ``serving`` or ``stopping``."""
        return self._state

    @property
    def tick_age_s(self) -> float:
        """For how long the control loop has not come round; 0 while it is not to run."""
        return 0.0 if self._ticked_at_s is None else asyncio.get_running_loop().time() - self._ticked_at_s

    @property
    def headline(self) -> str:
        """How it is, in a few words."""
        if self._state == "starting":
            return self._state
        return self._picture.headline()

    @property
    def taken_down(self) -> bool:
        """Whether somebody has asked for the end of every VM."""
        return self._orders.everything

    async def explain(self, subject: str) -> dict[str, Any]:
        """Why a replica, a zone or all (``"now"``) is as it is, and what would change it; see ``docs/explain.md``.

        Raises:
            UnknownSubjectError: There is no such thing; says what was probably meant.
        """
        return await self._picture.explain(subject)

    def running_spec(self) -> dict[str, Any]:
        """The model file as it is served, and what the policy has learnt, JSON-able: what a plan begins with."""
        return self._picture.running_spec()

    def keeps(self) -> tuple[int, float]:
        """How many VMs would keep running if the service stopped now, and their USD per hour."""
        clouds = self._orders.clouds_to_clear(self.spec, self._drivers)
        kept = [one for one in self._fleet.replicas() if one.vm_id is not None and one.offer.cloud not in clouds]
        return len(kept), sum(one.offer.usd_per_hour for one in kept)

    @property
    def farewell(self) -> str:
        """Once the service has stopped: that it has, and what it leaves running. Empty before."""
        return self._left

    @property
    def drills(self) -> Director:
        """Trouble that is made on purpose: :mod:`hedgeserve.drills`."""
        return self._director

    @property
    def updates(self) -> Updates:
        """Another model.toml, or a version back, while it runs."""
        return self._updates

    async def events(
        self, *, after: int = 0, limit: int = 100, replica: str | None = None
    ) -> Sequence[dict[str, Any]]:
        """Events of the journal with an id above ``after``, oldest first; with 0 the newest ``limit`` ones."""
        who = ReplicaId(replica) if replica else None
        found = await self._store.events(after=after, limit=limit, replica=who, newest=after == 0)
        return [event.document() for event in found]

    async def cost(self, since: datetime | None = None) -> dict[str, Any]:
        """What was spent since then (None: since the month began, UTC), and what on demand would have been."""
        async with self._fleet.unbilled() as unbilled:
            return await self._money.account(since, unbilled)

    def history(self, *, since_s: float, points: int = 500) -> dict[str, Any]:
        """What the service was like since then (Unix seconds), in about so many points at most, JSON-able."""
        return self._sampler.history.view(since_s, time.time(), points=points)

    async def logs(self, replica: str, lines: int = 100) -> str:
        """The last lines of a replica's engine log.

        Raises:
            KeyError: There is no such replica (any more).
            BootstrapError: Its VM cannot be reached.
        """
        return await self._fleet.logs(ReplicaId(replica), lines)

    def _present(self) -> Present:
        return Present(self.spec, self._state, self._plan, self._scale, self._tick_trouble)

    def _is_troubled(self, cloud: str) -> bool:
        return cloud in self._fleet.cloud_troubles()

    def _count_ready(self) -> int:
        return sum(replica.state is State.READY for replica in self._fleet.replicas())

    def _boot_eta_s(self) -> float | None:
        return self._fleet.boot_eta_s()

    async def _record(self, kind: EventKind, message: str) -> None:
        await self._journal.event(kind, message)
