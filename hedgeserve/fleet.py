"""The face of :mod:`hedgeserve.machines`: replicas launched, watched, drained, reaped, as a plan says.

Crash-only: an intent is in the journal before a cloud is asked, and :meth:`Fleet.start` reconciles what the
clouds list with what the journal says, so that no VM is lost and none is launched twice.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import structlog

from hedgeserve.drivers.base import Driver, Machine
from hedgeserve.drivers.static import StaticServer
from hedgeserve.errors import AuthError, CloudError, StateDirectoryError
from hedgeserve.hedge import Action, Drain, Launch, NewsKind, Plan, Rule, Terminate, ZoneNews
from hedgeserve.machines.absence import SERVED, absence_of, charge_stray
from hedgeserve.machines.adoption import Adoption, refuse_foreign
from hedgeserve.machines.doubts import Doubts
from hedgeserve.machines.editions import Edition, Editions
from hedgeserve.machines.external import ExternalLife
from hedgeserve.machines.hands import Hands, Order, Past
from hedgeserve.machines.inventory import Inventory
from hedgeserve.machines.journal import EventKind, Journal
from hedgeserve.machines.offerings import Offerings
from hedgeserve.machines.probe import Prober
from hedgeserve.machines.reaper import Owned, Reaper
from hedgeserve.machines.routes import Routes
from hedgeserve.metrics import Metrics
from hedgeserve.policy.ledger import Line
from hedgeserve.redaction import redact
from hedgeserve.replica import (
    STARTING,
    GoneReason,
    Market,
    Notice,
    Offer,
    Replica,
    ReplicaId,
    Role,
    RoutingSnapshot,
    State,
    Traffic,
    ZoneId,
)
from hedgeserve.spec import Spec
from hedgeserve.tables.replicas import StoredReplica
from hedgeserve.tracing import Tracing

if TYPE_CHECKING:
    from hedgeserve.machines.credentials import Credentials
    from hedgeserve.machines.life import ReplicaLife

__all__ = [
    "Edition",
    "EventKind",
    "Fleet",
    "FleetParts",
    "Journal",
    "absence_of",
    "charge_stray",
    "read_credentials",
]

_log = structlog.get_logger("hedgeserve.fleet")

_BOOTS_REMEMBERED = 20
_START_PATIENCE_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses while a cloud does not answer at the start."""
_BILL_EVERY_S = 60.0
_ANSWERED = frozenset({NewsKind.GRANTED, NewsKind.NO_CAPACITY, NewsKind.QUOTA, NewsKind.UNSUPPORTED})
"""What a launch ends with that reached its cloud and was understood there."""
_PATIENT = frozenset({Rule.UPDATE, Rule.ROLLBACK})


async def read_credentials(directory: Path) -> "Credentials":
    """What a service with VMs proves itself with, from this directory; made there at first use.

    Raises:
        StateDirectoryError: The certificate authority is damaged, others can read it, or the disk does not take
            what is to be made; says what to do.
    """

    def read() -> "Credentials":
        # Some ten megabytes of libraries, which a service that only has other people's servers does without.
        from hedgeserve.machines.credentials import Credentials

        try:
            return Credentials.read(directory)
        except OSError as error:
            raise StateDirectoryError(
                f"the keys in {directory} cannot be read or made: {error.strerror or error}; "
                "see to its disk, or make the directory readable and writable for this user"
            ) from error

    return await asyncio.to_thread(read)


@dataclass(frozen=True, slots=True)
class FleetParts:
    """What a fleet is made of; ``core`` puts it together. Without ``drivers`` it needs no ``credentials``.

    ``editions`` are the versions that run or may, ``wanted`` the one that is launched where nothing else is said.
    """

    spec: Spec
    editions: Mapping[int, Edition]
    wanted: int
    engine_key: str = field(repr=False)
    drivers: Mapping[str, Driver]
    externals: Sequence[StaticServer]
    credentials: "Credentials | None"
    journal: Journal
    metrics: Metrics
    traffic: Traffic
    news: Callable[[ZoneNews], None]
    changed: Callable[[], None]
    tracing: Tracing | None = None
    ended: Callable[[Replica, str], None] = lambda replica, why: None


class Fleet:
    """All replicas of one service. An async context manager: on exit its tasks end and the VMs stay.

    ``changed`` is called, synchronously, after every change of a replica; ``news`` with all that is learnt of
    a zone; ``ended`` with each replica whose life is over, and why.
    """

    def __init__(self, parts: FleetParts) -> None:
        self._parts = parts
        self._spec = parts.spec
        self._wanted = parts.wanted
        self._routes = Routes(parts.engine_key)
        self._service = parts.spec.service.name
        self._inventory = Inventory(
            parts.drivers,
            call_timeout_s=parts.spec.timeouts.cloud_call,
            answers_again=self._answers_again,
        )
        # What our VMs are told from another controller's by; where there are none, nothing is asked.
        self._controller = parts.credentials.keys.fingerprint if parts.credentials else ""
        self._lives: dict[ReplicaId, ReplicaLife] = {}
        self._externals: dict[ReplicaId, ExternalLife] = {}
        self._offerings = Offerings(parts.spec, parts.drivers, parts.metrics, changing=self.bill)
        self._boots_s: deque[float] = deque(maxlen=_BOOTS_REMEMBERED)
        self._launch_troubles: dict[str, str] = {}
        self._reaper = Reaper(
            parts.spec, parts.drivers, self._inventory, parts.journal, self._owned, self._controller, parts.metrics
        )
        parts.metrics.expect_clouds(parts.drivers)
        self._refused_intent = False
        self._doubts = Doubts(parts.journal)
        self._stack = AsyncExitStack()
        self._group: asyncio.TaskGroup
        self._editions: Editions
        self._hands: Hands
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        parts, edition = self._parts, self._parts.editions[self._wanted]
        self._hands = Hands(
            spec=parts.spec,
            engine=edition.engine,
            engine_key=parts.engine_key,
            drivers=parts.drivers,
            inventory=self._inventory,
            credentials=parts.credentials,
            journal=parts.journal,
            prober=Prober(parts.spec.probe, edition.engine),
            traffic=parts.traffic,
            metrics=parts.metrics,
            news=self._hear,
            changed=parts.changed,
            offers=self.offers,
            boots_s=self._boots_s,
            tracing=parts.tracing,
        )
        self._editions = Editions(self._hands)
        self._editions.adopt(parts.editions)
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.bill()
        finally:
            for task in self._tasks:
                task.cancel()
            await self._stack.__aexit__(kind, error, trace)

    async def start(self, stored: Sequence[StoredReplica]) -> frozenset[ReplicaId]:
        """Reconcile, then begin to live; the replicas that served before and, as far as is known, still do.

        The clouds are listed *before* the journal's replicas are judged: a VM that appears in between is
        adopted or reaped by the next round, one that was judged missing too early would be launched again.

        Raises:
            CloudError: A cloud cannot be listed, so nothing can be said of its VMs; the message says which. One
                that only does not answer is asked for a minute first. Or another controller has a service of
                this name there.
        """
        if strangers := [known.id for known in stored if known.offer.cloud not in self._parts.drivers]:
            raise CloudError(
                f"{', '.join(strangers)} may still run in a cloud that the pools no longer name; put that pool "
                "back, or take the service down with the model file as it was (`hedgeserve down`)"
            )
        self._boots_s.extend(await self._parts.journal.last_boots_s(_BOOTS_REMEMBERED))
        for known in stored:  # though the pools may name its region no more
            self._parts.drivers[known.offer.cloud].watch([known.offer.zone.split("/")[1]])
        listed: list[Machine] = []
        for cloud in self._parts.drivers:
            listed += await self._first_list(cloud)
        refuse_foreign(self._service, listed, self._controller)
        adoption = Adoption(self._spec, self._hands, self._offerings)
        for known in stored:
            machine = next((m for m in listed if m.name == known.id and known.vm_id in (None, m.id)), None)
            if machine is not None:
                listed.remove(machine)
            if (found := await adoption.judge(known, machine)) is not None:
                replica, past = found
                self._live(self._make_life(replica, known.token, past))
                served = replica.state is State.BOOTING and past.served
                as_what = "it has served, and is looked at" if served else f"as {replica.state}"
                await self._tell(EventKind.ADOPTED, f"taken up again{': ' if served else ' '}{as_what}", replica)
        for machine in listed:
            await self._reaper.reap(machine, "it belongs to no replica that the journal knows")
        for cloud, driver in self._parts.drivers.items():
            self._begin(f"driver {cloud}", driver.run())
            self._begin(f"inventory {cloud}", self._inventory.run(cloud))
        self._begin("offers", self._offerings.keep())
        self._begin("reaper", self._reaper.reap_vms())
        self._begin("forgotten things", self._reaper.remove_forgotten())
        self._begin("billing", self._bill_regularly())
        for number, server in enumerate(self._parts.externals, start=1):
            self._begin_external(number, server)
        return frozenset(known.id for known in stored if known.state in SERVED and known.id in self._lives)

    # What others may see

    def replicas(self) -> tuple[Replica, ...]:
        """Every replica that is not gone, oldest first."""
        external = tuple(life.replica for life in self._externals.values())
        return external + tuple(life.replica for life in self._lives.values())

    @property
    def in_doubt(self) -> Mapping[ReplicaId, str]:
        """The ready replicas that were in doubt when they were looked at last, and why."""
        return self._doubts.known

    async def doubted(self) -> Mapping[ReplicaId, str]:
        """The ready replicas that are in doubt, and why, as the journal has been told.

        None of a cloud that is silent too: there it may be us whom nobody hears.
        """
        return await self._doubts.look(self._lives.values(), deaf=self._inventory.troubles())

    def offers(self) -> tuple[Offer, ...]:
        """What the pools allow, at the last known prices."""
        return self._offerings.all()

    def withheld(self) -> dict[ZoneId, list[str]]:
        """What the pools name and is not offered, by zone, each in a sentence with its reason."""
        return self._offerings.withheld()

    def snapshot(self) -> RoutingSnapshot:
        """All replicas that requests may be on."""
        return self._routes.snapshot(self._lives, self._externals)

    def troubles(self) -> list[str]:
        """What is wrong with the clouds, each as a sentence; empty when all of them answer and grant or refuse."""
        return [f"{cloud}: {trouble}" for cloud, trouble in self.cloud_troubles().items()]

    def cloud_troubles(self) -> dict[str, str]:
        """The clouds that something is wrong with, and what."""
        known = {**self._launch_troubles, **self._inventory.troubles()}
        return {cloud: redact(trouble) for cloud, trouble in known.items()}

    def usd_per_hour(self) -> float:
        """What the replicas that have a VM cost now."""
        return sum(replica.offer.usd_per_hour for replica in self.replicas() if replica.vm_id is not None)

    def unbilled_usd(self) -> float:
        """What the replicas have cost since they were billed last."""
        return sum(life.unbilled_usd() for life in self._lives.values())

    @asynccontextmanager
    async def unbilled(self) -> AsyncIterator[Sequence[Line]]:
        """What the replicas have cost and the ledger does not hold; until this is left, nothing is charged."""
        async with self._parts.journal.charging:
            yield [line for life in self._lives.values() for line in life.unbilled()]

    async def bill(self) -> None:
        """Write what all replicas have cost up to now into the ledger."""
        for life in list(self._lives.values()):
            await life.bill()

    @property
    def holds_launches(self) -> bool:
        """Whether the last launch could not be made, since its intent could not be written down."""
        return self._refused_intent

    def boot_s(self) -> float | None:
        """How long a boot takes, by those seen so far; None before the first."""
        return median(self._boots_s) if self._boots_s else None

    def boot_eta_s(self) -> float | None:
        """Seconds until the next replica should be ready, going by the boots seen so far; None if unknown."""
        boots, now_s = self._boots_s, self._now_s()
        starting = [life for life in self._lives.values() if life.replica.state in STARTING]
        if not boots or not starting:
            return None
        return max(1.0, median(boots) - max(now_s - life.begun_s for life in starting))

    async def logs(self, replica: ReplicaId, lines: int) -> str:
        """The last lines of a replica's engine log.

        Raises:
            KeyError: There is no such replica (any more).
            BootstrapError: Its VM cannot be reached.
        """
        return await self._lives[replica].log_tail(lines)

    # What others may have done

    async def adopt(self, spec: Spec, editions: Mapping[int, Edition], wanted: int) -> None:
        """Go by this spec from now on, and have these versions; replicas that live keep the one that they run.

        Raises:
            SpecError: A driver cannot go by it; it goes on as before, the others may not.
        """
        await self._offerings.adopt(spec)
        self._spec, self._wanted = spec, wanted
        self._inventory.adopt(call_timeout_s=spec.timeouts.cloud_call)
        self._reaper.adopt(spec)
        kept = {life.replica.version: self._editions.of(life.replica.version) for life in self._lives.values()}
        self._editions.adopt(
            {version: Edition(hands.spec, hands.engine) for version, hands in kept.items()} | dict(editions)
        )
        for life in self._lives.values():
            life.adopt()
        for external in self._externals.values():
            external.adopt(self._editions.of(wanted))

    def assign(self, roles: Mapping[int, Role]) -> None:
        """Say what the replicas of each version are for; all change over in the next snapshot, which is now."""
        if self._routes.assign(roles):
            self._parts.changed()

    async def apply(self, plan: Plan) -> list[Action]:
        """Begin what the plan says; returns the actions that were begun.

        Launches are in the journal, and in :meth:`replicas`, when this returns: the next plan counts them.
        """
        begun: list[Action] = []
        for action in plan.actions:
            match action:
                case Launch():
                    done = await self._launch(action)
                case Drain():
                    done = self._order(action.replica, drain=True, action=action, deadline_s=action.deadline_s)
                case Terminate():
                    done = self._order(action.replica, drain=False, action=action)
            if done:
                begun.append(action)
                self._parts.metrics.decided(action)
        return begun

    def suspect(self, replica: ReplicaId) -> None:
        """The requests on this replica were met with silence: have it probed at once, and its cloud asked."""
        life = self._lives.get(replica)
        if life is not None:
            life.suspected("its streams were silent, and a question at once was not answered")
            self._inventory.ask_soon(life.replica.offer.cloud)

    def stage(self, replica: ReplicaId) -> None:
        """A drill has a hand in what becomes of this replica; news of it is marked from here on."""
        if (life := self._lives.get(replica)) is not None:
            life.stage()
            self._inventory.ask_soon(life.replica.offer.cloud)

    async def announce(self, replica: ReplicaId, notice: Notice) -> None:
        """Have a ready replica treated as if its VM had told this notice."""
        if (life := self._lives.get(replica)) is not None:
            await life.announce(notice)

    async def terminate_all(self, why: str, *, clouds: Collection[str]) -> None:
        """Terminate every VM on these clouds, at once, and return when none is left."""
        while ending := [life for life in self._lives.values() if life.replica.offer.cloud in clouds]:
            self._ended.clear()
            for life in ending:
                life.order(Order(drain=False, why=why, gone=GoneReason.SCALED_DOWN))
            await self._ended.wait()

    async def clear(self, clouds: Collection[str]) -> None:
        """Take away whatever else the service has in these clouds; the journal says at the end what they list."""
        await self._reaper.clear(clouds)

    # How it is done

    async def _launch(self, action: Launch) -> bool:
        token, version = secrets.token_hex(16), action.version or self._wanted
        try:
            replica_id = await self._parts.journal.intend(action.offer, token, action.reason, version)
        except StateDirectoryError as error:
            if not self._refused_intent:
                _log.error("nothing is launched while the intent cannot be written down", error=str(error))
            self._refused_intent = True
            return False
        self._refused_intent = False
        replica = Replica(
            id=replica_id,
            offer=action.offer,
            state=State.PLANNED,
            since_s=self._now_s(),
            created_at=datetime.now(UTC),
            why=action.reason,
            version=version,
        )
        self._live(self._make_life(replica, token))
        await self._parts.journal.event(
            EventKind.LAUNCH,
            f"{action.offer.market} in {action.offer.zone}: {action.reason}",
            replica=replica_id,
            zone=action.offer.zone,
            data={"rule": str(action.rule), "market": str(action.offer.market), "version": version},
        )
        return True

    def _order(
        self, replica: ReplicaId, *, drain: bool, action: Drain | Terminate, deadline_s: float | None = None
    ) -> bool:
        life = self._lives.get(replica)
        if life is None or life.ending:
            return False
        # An update is no emergency: nothing that a replica answers may be cut for it.
        patience_s = self._spec.timeouts.total if action.rule in _PATIENT else None
        life.order(
            Order(
                drain, action.reason, action.gone, rule=action.rule, deadline_s=deadline_s, patience_s=patience_s
            )
        )
        return True

    def _make_life(self, replica: Replica, token: str, past: Past | None = None) -> "ReplicaLife":
        from hedgeserve.machines.life import ReplicaLife  # with all of SSH: not for those who have no VM

        return ReplicaLife(replica, self._editions.of(replica.version), token=token, past=past)

    def _live(self, life: "ReplicaLife") -> None:
        self._lives[life.replica.id] = life
        self._parts.changed()

        async def live() -> None:
            # Whatever is logged in this task, or in a thread that works for it, says whose life it is about.
            structlog.contextvars.bind_contextvars(replica=life.replica.id, zone=life.replica.zone)
            try:
                await life.run()
            except Exception:  # its VM, if one is left, is the reaper's now; the others' lives go on
                _log.exception("a replica's task failed", replica=life.replica.id)
            del self._lives[life.replica.id]
            self._parts.ended(life.replica, life.last_words)
            self._ended.set()
            self._parts.changed()

        self._begin(f"replica {life.replica.id}", live())

    def _begin_external(self, number: int, server: StaticServer) -> None:
        replica_id = ReplicaId(f"{self._service}-static-{number}")
        now = datetime.now(UTC)
        offer = Offer(server.zone, "static", Market.EXTERNAL, usd_per_hour=0.0, read_at=now)
        replica = Replica(id=replica_id, offer=offer, state=State.PLANNED, since_s=self._now_s(), created_at=now)
        life = ExternalLife(replica, self._hands, url=server.url, api_key=server.api_key)
        self._externals[replica_id] = life
        self._begin(f"replica {replica_id}", life.run())

    def _begin(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _first_list(self, cloud: str) -> Collection[Machine]:
        """A cloud's VMs, and its offers, at the start; waits for one that is unreachable for a moment."""
        for pause_s in (*_START_PATIENCE_S, None):
            try:
                machines = await self._inventory.refresh(cloud)
                await self._offerings.refresh(cloud)
            except CloudError as error:
                if pause_s is None or isinstance(error, AuthError):
                    raise
                _log.warning("a cloud does not answer; trying again", cloud=cloud, error=str(error))
                await asyncio.sleep(pause_s)
            else:
                return machines.values()
        raise AssertionError("unreachable")

    def _hear(self, news: ZoneNews) -> None:
        """Pass news on; a cloud whose launches fail for no reason of capacity or quota is a trouble to show."""
        cloud = news.zone.split("/", 1)[0]
        if news.kind is NewsKind.LAUNCH_ERROR:
            self._launch_troubles[cloud] = news.detail
        elif news.kind in _ANSWERED:
            self._launch_troubles.pop(cloud, None)
        self._parts.news(news)

    def _answers_again(self, cloud: str) -> None:
        """Launches need not wait any longer for a cloud that was silent."""
        self._launch_troubles.pop(cloud, None)
        places = {(offer.zone, offer.market) for offer in self.offers() if offer.cloud == cloud}
        for zone, market in sorted(places):
            told = f"{cloud} answers again"
            self._parts.news(ZoneNews(zone, market, NewsKind.REACHABLE, self._now_s(), told))

    async def _tell(self, kind: EventKind, message: str, replica: Replica) -> None:
        await self._parts.journal.event(kind, message, replica=replica.id, zone=replica.zone)

    def _owned(self) -> Owned:
        """Names and VMs of all replicas; None for a VM that the cloud may still be granting."""
        return {(life.replica.id, life.replica.vm_id) for life in self._lives.values()}

    async def _bill_regularly(self) -> None:
        while True:
            await asyncio.sleep(_BILL_EVERY_S)
            await self.bill()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
