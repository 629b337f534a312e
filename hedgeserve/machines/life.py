"""A replica's life from intent to end: one state machine, owned by one task.

The task acts and reports; it decides nothing. What should happen to a replica arrives as an :class:`Order` (from
a plan), as news from the VM itself (a notice, a failed probe, silence) or as its absence from the cloud's list.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from hedgeserve.drivers.base import LaunchRequest, Machine, MachineState
from hedgeserve.drivers.tags import tags_for
from hedgeserve.errors import AuthError, BootstrapError, CloudError
from hedgeserve.hedge import NewsKind, Rule, ZoneNews
from hedgeserve.machines.bill import Bill
from hedgeserve.machines.coldstart import ColdStart
from hedgeserve.machines.ending import take_away
from hedgeserve.machines.hands import Hands, Order, Past
from hedgeserve.machines.journal import EventKind
from hedgeserve.machines.lastwords import in_short
from hedgeserve.machines.notices import Approved, NoticeSeen, Rebalance, Remark, Trouble, WatchEvent
from hedgeserve.machines.probe import Identity, Prober
from hedgeserve.machines.readiness import Readiness
from hedgeserve.machines.refusals import is_certain, news_of
from hedgeserve.machines.session import VmSession, transport_to
from hedgeserve.policy.ledger import Line
from hedgeserve.race import is_cancelled, race
from hedgeserve.redaction import redact
from hedgeserve.replica import STARTING, GoneReason, Market, Notice, Replica, State
from hedgeserve.spec import Transport
from hedgeserve.tracing import ReplicaTrace
from hedgeserve.units import format_duration

_log = structlog.get_logger("hedgeserve.fleet")

_LOOKS_AFTER_S = (0.0, 0.2, 0.4, 0.8)
_NOTICE_LATE_S = 2.0
_SOONER_S = 2.0

BRING_UP_LIMIT_S = 2400.0
"""Longest time from the first SSH connection to a started engine, installation included."""


class _Over(Exception):
    """This life is over, for a reason that came from the VM or its cloud and not from an order."""

    def __init__(
        self, gone: GoneReason, why: str, news: NewsKind | None = None, *, rule: Rule | None = None
    ) -> None:
        super().__init__(why)
        self.gone, self.why, self.news, self.rule = gone, why, news, rule


class ReplicaLife:
    """Runs one replica; :attr:`replica` is always its present state, :attr:`last_words` why it has ended."""

    def __init__(self, replica: Replica, hands: Hands, *, token: str, past: Past | None = None) -> None:
        self.replica = replica
        self._hands = hands
        self._token = token
        self._past = past
        self._driver = hands.drivers[replica.offer.cloud]
        self._order: Order | None = None
        self._ordered = asyncio.Event()
        self._hurry = asyncio.Event()
        self._session: VmSession | None = None
        self._readiness: Readiness | None = None
        self.last_words = ""
        self.doubt = ""
        """Why it is in doubt whether it still serves; empty while it is not."""
        self._under_notice = asyncio.Event()
        self._tunnelled = False
        self._lead_s: float | None = None
        self._served = past is not None and past.served
        self._cold_start = ColdStart()
        self._trace: ReplicaTrace | None = None
        if hands.tracing is not None:
            self._trace = hands.tracing.replica(replica, launched=past is None)
        self._staged = False
        self.begun_s = self._now_s() - (past.age_s if past else 0.0)
        self._bill = Bill(hands, charged_until_s=self._now_s() - (past.unbilled_s if past else 0.0))

    # What the fleet may ask

    def order(self, order: Order) -> None:
        """Give an order; one that ends at once overrules one that drains, anything else comes too late."""
        if self._order is None or (self._order.drain and not order.drain):
            self._order = order
            self._ordered.set()
            if not order.drain:
                self._hurry.set()

    @property
    def ending(self) -> bool:
        """Whether it has been ordered to end, so that a plan need not say so again."""
        return self._order is not None or self.replica.state in (State.TERMINATING, State.GONE)

    def stage(self) -> None:
        """A drill has a hand in its fate from now on: its news of its zone are marked, its boot is no measure."""
        self._staged = True

    async def announce(self, notice: Notice) -> None:
        """A drill gives the notice that its cloud has no way to give on demand; a ready replica heeds it."""
        self._staged = True
        if self.replica.state is State.READY:
            await self._noticed(notice)

    @property
    def patience_s(self) -> float:
        """For how long its requests may go on once it drains."""
        told_s = self._order.patience_s if self._order is not None else None
        return self._hands.spec.timeouts.drain if told_s is None else told_s

    @property
    def is_patient(self) -> bool:
        """Whether it drains for an update, with all the time that a request may take."""
        return self._order is not None and self._order.patience_s is not None

    def adopt(self) -> None:
        """Its hands have other words by now: probe by them."""
        if self._readiness is not None and self.replica.url is not None:
            self._readiness.adopt(self._prober(self.replica.url), self._hands.spec.probe)

    async def log_tail(self, lines: int) -> str:
        """The last lines of its engine's log.

        Raises:
            BootstrapError: There is no connection to the VM now.
        """
        if self._session is None:
            raise BootstrapError("logs", f"{self.replica.id} is {self.replica.state}: it has no engine log now")
        return await self._session.log_tail(lines)

    async def bill(self) -> None:
        """Write what it has cost since the last bill into the ledger."""
        await self._bill.charge(self.replica, self._now_s())

    def unbilled_usd(self) -> float:
        """What it has cost since its last bill."""
        return self._bill.usd(self.replica, self._now_s())

    def unbilled(self) -> list[Line]:
        """The same as the ledger will tell it."""
        return self._bill.lines(self.replica, self._now_s(), served=self._served)

    # Its course

    async def run(self) -> None:
        """Live until nothing is left of it. When cancelled the VM is left as it is, for a later adoption."""
        try:
            over = await self._live()
        except (Exception, asyncio.CancelledError) as error:  # a bug of ours must cost one replica, not the fleet
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            _log.exception("the task of a replica failed", replica=self.replica.id)
            over = _Over(GoneReason.FAILED, f"an unexpected error: {error!r}", self._failure())
        if over is None or self.replica.state is State.GONE:
            return
        self.last_words = over.why
        if over.news is not None:
            self._tell(over.news, over.why, lead_s=self._lead_s)
        elif over.gone is not GoneReason.PREEMPTED and self.replica.state is not State.TERMINATING:
            self._tell(NewsKind.RELEASED, over.why)
        await self._terminate(over)

    async def _live(self) -> _Over | None:
        """Everything up to the decision that it ends; None when there is nothing to terminate."""
        if self.replica.state is State.TERMINATING:
            return _Over(self.replica.gone or GoneReason.REAPED, self.replica.why)
        try:
            if self.replica.state is State.PLANNED and not await self._provision():
                return None
            _, over = await race(order=self._follow_order(), work=self._work())
        except _Over as told:
            return told
        except BootstrapError as error:
            return _Over(GoneReason.FAILED, str(error), self._failure())
        return over if isinstance(over, _Over) else None

    async def _follow_order(self) -> _Over:
        await self._ordered.wait()
        order = self._order
        assert order is not None
        if not order.drain or self.replica.state not in (State.READY, State.NOTICED):
            return _Over(order.gone, order.why, rule=order.rule)
        await self._to(State.DRAINING, order.why, gone=order.gone, rule=order.rule)
        begun_s, traffic = self._now_s(), self._hands.traffic
        deadline_s = begun_s + self.patience_s
        if order.deadline_s is not None:
            deadline_s = min(deadline_s, order.deadline_s)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await race(idle=traffic.wait_idle(self.replica.id), hurry=self._hurry.wait())
        left, took = traffic.outstanding(self.replica.id), format_duration(self._now_s() - begun_s)
        ended = f"{left} requests had not ended after {took}" if left else f"its requests had ended after {took}"
        if self.replica.notice is not None and (session := self._session) is not None and session.may_approve:
            # Written down first: the VM may end before it can say that it was heard.
            await self._record(EventKind.NOTICE, "drained: the cloud is told that it may begin")
            await session.approve()
        return _Over(order.gone, ended)

    # Provisioning

    async def _provision(self) -> bool:
        """Ask the cloud; false when it refused, so that there is nothing to end."""
        replica = self.replica
        try:
            host_key = await self._hands.keys.make_host_key(replica.id)
        except OSError as error:
            why = f"the VM's host key could not be written down: {error}"
            raise _Over(GoneReason.FAILED, why, NewsKind.LAUNCH_ERROR) from None
        await self._to(State.PROVISIONING, f"asking {replica.offer.cloud} for a VM")
        spec, controller = self._hands.spec, self._hands.keys.fingerprint
        request = LaunchRequest(
            name=replica.id,
            token=self._token,
            offer=replica.offer,
            tags=tags_for(spec.service.name, spec.timeouts.lease, replica.id, controller=controller),
            authorized_key=self._hands.keys.authorized_key,
            host_key=host_key,
            spec=spec,
        )
        try:
            async with asyncio.timeout(self._hands.spec.timeouts.launch):
                machine = await self._driver.launch(request)
        except TimeoutError:
            why = f"{replica.offer.cloud} did not answer the launch within its time"
            await self._refused(CloudError(why))
            return False
        except CloudError as error:
            await self._refused(error)
            return False
        self._hands.metrics.launched(replica.zone, replica.market)
        self._tell(NewsKind.GRANTED, "a launch was granted")
        self._cold_start.ended("grant", self._now_s() - self.begun_s, self._now_s() - self.begun_s)
        await self._to(State.BOOTING, "the VM was granted", vm_id=machine.id)
        self._hands.inventory.ask_soon(replica.offer.cloud)
        return True

    async def _refused(self, error: CloudError) -> None:
        kind = news_of(error)
        self._staged = self._staged or error.staged
        self._hands.metrics.launched(self.replica.zone, self.replica.market, error)
        told = {"kind": error.kind} | ({"staged": True} if error.staged else {})
        await self._record(EventKind.REFUSED, str(error), told)
        if not is_certain(error):  # there may be a VM, which is looked for by its name and taken away
            raise _Over(GoneReason.FAILED, str(error), kind)
        self._tell(kind, str(error))
        if isinstance(error, AuthError):
            self._tell_cloud(kind, str(error))
        await self._hands.keys.forget(self.replica.id)
        await self._to(State.GONE, str(error), gone=GoneReason.FAILED)

    # Booting, loading, serving

    async def _work(self) -> None:
        cloud, vm_id = self.replica.offer.cloud, self.replica.vm_id
        assert vm_id is not None
        inventory, boot_s = self._hands.inventory, self._hands.spec.timeouts.boot
        try:
            async with asyncio.timeout(boot_s):
                machine = await inventory.wait_running(cloud, vm_id)
        except TimeoutError:
            raise BootstrapError("boot", f"{cloud} did not report the VM as running within {boot_s:g} s") from None
        if machine is not None:
            self._timed_once("boot")
            self._session = await self._open_session(machine)
            try:
                await race(
                    vanished=self._until_vanished(cloud, vm_id),
                    readiness=self._keep_ready(self._session),
                    session=self._session.run(),
                )
            except (_Over, BootstrapError):
                # A VM that is being taken away fails in many ways; only the cloud knows which it was.
                if not await self._is_gone(cloud, vm_id):
                    raise
            finally:
                self._session = self._readiness = None
        raise self._vanished()

    async def _until_vanished(self, cloud: str, vm_id: str) -> None:
        inventory = self._hands.inventory
        machine = await inventory.wait_ending(cloud, vm_id)
        if machine is None or machine.state is MachineState.STOPPED:
            return
        # GCP begins to shut a VM down as it gives the notice: that it stops is then the same news, told again, and
        # the engine may go on until the end. The list may be a moment before the notice.
        if self.replica.state is State.READY:
            with suppress(TimeoutError):
                async with asyncio.timeout(_NOTICE_LATE_S):
                    await race(notice=self._under_notice.wait(), gone=inventory.wait_vanished(cloud, vm_id))
        if self.replica.notice is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self.replica.notice.deadline_s):
                    await inventory.wait_vanished(cloud, vm_id)

    async def _open_session(self, machine: Machine) -> VmSession:
        hands = self._hands
        transport = transport_to(machine, engine=hands.engine, wanted=hands.spec.service.transport)
        tls = None
        if transport is Transport.TLS:
            tls = await hands.authority.issue(machine.name, machine.address or "")
        self._tunnelled = transport is Transport.SSH
        return VmSession(
            machine,
            keys=hands.keys,
            engine=hands.engine,
            engine_key=hands.engine_key,
            transport=transport,
            tls=tls,
            boot_timeout_s=hands.spec.timeouts.boot,
            notice_poll_s=hands.spec.hedge.notice_poll,
            driver_wait_s=hands.spec.vm.driver_wait,
            ears=self,
        )

    async def _keep_ready(self, session: VmSession) -> None:
        # One limit around all that comes before: each step has its own, but steps may be taken again and again.
        limit_s = self._hands.spec.timeouts.boot + BRING_UP_LIMIT_S
        try:
            async with asyncio.timeout(limit_s):
                await session.started.wait()
        except TimeoutError:
            raise BootstrapError("start", f"the engine had not been started after {limit_s:g} s") from None
        self.replica = replace(self.replica, url=session.url)
        self._readiness = readiness = Readiness(
            self._prober(session.url),
            self._hands.spec.probe,
            url=session.url,
            api_key=self._hands.engine_key,
            exited=session.exited,
            timed=self.timed,
            doubts=self._doubted,
        )
        await readiness.wait_ready()
        if self.replica.notice is not None and not self._served:
            await asyncio.get_running_loop().create_future()  # it is being ended for that notice
        took_s = self._now_s() - self.begun_s
        if self._past is None:
            self.timed("total", took_s)
            if not self._staged:
                self._hands.boots_s.append(took_s)
        how = "it still serves" if self._served else f"it answered its first token {took_s:.1f} s after the launch"
        if self._past is not None and not self._served:
            how += ", the time without a controller included"
        self._served = True
        self._tell(NewsKind.READY, "a replica became ready")
        await self._to(State.READY, how)
        # A notice that came while the step was being written down has made the next one already.
        if self.replica.notice is not None and self.replica.state is State.READY:
            await self._to(State.NOTICED, "it is under a preemption notice")
        raise _Over(GoneReason.FAILED, await readiness.wait_failed())

    async def _is_gone(self, cloud: str, vm_id: str) -> bool:
        # Parts of a VM die one after the other, and its cloud's list may be the last to tell: it is asked again.
        for pause_s in _LOOKS_AFTER_S:
            await asyncio.sleep(pause_s)
            try:
                machine = (await self._hands.inventory.refresh(cloud)).get(vm_id)
            except CloudError:
                continue
            if machine is None or machine.state in (MachineState.STOPPING, MachineState.STOPPED):
                return True
        return False

    def _vanished(self) -> _Over:
        noticed = self.replica.notice is not None
        how = "at the end of its notice" if noticed else "without a notice"
        # A VM that is taken away before it served is as good as refused: its zone rests, or launch after launch
        # would be paid for there.
        news = NewsKind.PREEMPTED if self._served else NewsKind.NO_CAPACITY
        if self.replica.market is not Market.SPOT:
            return _Over(GoneReason.FAILED, f"the VM vanished {how}", None if self._served else news)
        if not noticed:
            self._hands.metrics.preempted(self.replica.zone, self.replica.market, lead_s=None)
        return _Over(GoneReason.PREEMPTED, f"the VM was taken away {how}", news)

    def _failure(self) -> NewsKind | None:
        """The news that a failure is: one of the boot, and none of the zone, unless it has served before."""
        return None if self._served else NewsKind.BOOT_FAILED

    # What the session tells (machines.session.Ears)

    async def connected(self) -> None:
        """SSH answers: from here on the engine is being started."""
        if self.replica.state is State.BOOTING:
            self._timed_once("ssh")
            engine = (
                "its engine, which has served, is looked at" if self._served else "the engine is being started"
            )
            await self._to(State.LOADING, f"SSH answers{' after the restart' if self._past else ''}; {engine}")

    async def lost(self) -> None:
        """The connection ended: have the cloud asked at once whether the VM is still there, and the engine too."""
        self._hands.metrics.ssh_lost(self.replica.offer.cloud)
        self._hands.inventory.ask_soon(self.replica.offer.cloud)
        if not self._tunnelled:  # through a tunnel that is down nothing can be asked; it gets its usual time
            self.suspected()

    def suspected(self, unanswered: str = "") -> None:
        """The VM is too silent: have the engine probed at once. What still serves is left alone.

        ``unanswered``: it has been asked already, in vain; then it is in doubt until a probe is answered.
        """
        if self._readiness is not None and (not unanswered or self.replica.state is State.READY):
            self._readiness.suspect(unanswered)

    def _doubted(self, why: str) -> None:
        self.doubt = why
        self._hands.changed()

    async def heard(self, event: WatchEvent) -> None:
        """Act on a notice; write down the rest."""
        match event:
            case NoticeSeen(notice=notice):
                await self._noticed(notice)
            case Rebalance():
                told = "the cloud recommends to move elsewhere: the risk of a preemption is raised"
                self._hands.metrics.rebalance(self.replica.zone, self.replica.market)
                self._tell(NewsKind.REBALANCE, told)
                await self._record(EventKind.REBALANCE, told)
            case Trouble(what=what):
                self._hands.metrics.watch_failed(self.replica.offer.cloud)
                await self._record(EventKind.TROUBLE, f"notices cannot be watched: {what}")
            case Remark(what=what):
                await self._record(
                    EventKind.NOTE, f"the cloud has announced what the engine should survive: {what}"
                )
            case Approved(refused=refused) if refused:
                await self._record(EventKind.NOTICE, f"the cloud did not take it: {refused}")
            case Approved():
                pass

    def timed(self, phase: str, seconds: float) -> None:
        """Add one phase to the picture of the cold start."""
        if self._trace is not None and phase != "total":
            self._trace.phase(phase, seconds)
        self._hands.metrics.booted(phase, seconds)
        if self._past is None and phase != "total":
            self._cold_start.ended(phase, self._now_s() - self.begun_s, seconds)

    def _timed_once(self, phase: str) -> None:
        if self._past is None:  # an adopted VM was booted long ago
            self.timed(phase, self._now_s() - self.begun_s)

    async def _noticed(self, notice: Notice) -> None:
        known = self.replica.notice
        if known is not None:
            if notice.deadline_s < known.deadline_s - _SOONER_S:
                await self._noticed_again(notice)
            return
        self._under_notice.set()
        left_s = self._lead_s = max(0.0, notice.deadline_s - self._now_s())
        why = f"preemption notice: the VM goes in {left_s:.0f} s ({notice.source})"
        if self._past is None or not self._past.noticed:
            self._hands.metrics.preempted(self.replica.zone, self.replica.market, lead_s=left_s)
        # Judged before anything that waits: it may become ready meanwhile.
        hopeless = self.replica.state in STARTING and not self._served
        self._tell(NewsKind.NO_CAPACITY if hopeless else NewsKind.NOTICE, why, lead_s=left_s)
        if self.replica.state is State.READY:
            await self._to(State.NOTICED, why, notice=notice)
        else:
            self.replica = replace(self.replica, notice=notice)
        await self._record(EventKind.NOTICE, why, {"source": notice.source, "lead_s": round(left_s, 1)})
        if hopeless:
            raise _Over(GoneReason.PREEMPTED, why)

    async def _noticed_again(self, notice: Notice) -> None:
        """The end comes sooner than was announced: after a maintenance in an hour, say, a preemption in 30 s."""
        self.replica = replace(self.replica, notice=notice)
        self._hands.changed()
        left_s = max(0.0, notice.deadline_s - self._now_s())
        await self._record(EventKind.NOTICE, f"the VM goes sooner, in {left_s:.0f} s ({notice.source})")

    # Its end

    async def _terminate(self, over: _Over) -> None:
        """Have the VM taken away; a cloud that fails to is asked again and again, loudly, for ever."""
        if self.replica.state is State.PLANNED:  # no cloud was asked
            await self._to(State.GONE, over.why, gone=over.gone)
            return
        if self.replica.state is not State.TERMINATING:
            await self._to(State.TERMINATING, over.why, gone=over.gone, rule=over.rule)
        await take_away(self.replica, self._hands, self._record)
        await self._hands.keys.forget(self.replica.id)
        lived_s = self._now_s() - self.begun_s
        usd = lived_s * self.replica.offer.usd_per_hour / 3600
        gone = self.replica.gone or over.gone
        await self._to(State.GONE, f"{gone} after {format_duration(lived_s)}, for {usd:.4f} USD", gone=gone)

    # Small things

    def _prober(self, url: str) -> Prober:
        prober = self._hands.prober
        if not url.startswith("https:"):
            return prober
        return prober.of(Identity(self.replica.id, self._hands.authority.trust))

    async def _to(
        self,
        state: State,
        why: str,
        *,
        gone: GoneReason | None = None,
        vm_id: str | None = None,
        notice: Notice | None = None,
        rule: Rule | None = None,
    ) -> None:
        # The step itself before anything that waits: two tasks of this life may have news at the same time.
        said = redact(why)
        why = in_short(said)
        before, now_s = self.replica, self._now_s()
        self.replica = before.to(state, now_s=now_s, why=why, gone=gone, vm_id=vm_id, notice=notice)
        if self._trace is not None:
            self._trace.reached(state, why, self.replica.gone)
        self._hands.changed()
        await self._bill.charge(before, now_s)
        await self._hands.journal.save(self.replica)
        data: dict[str, Any] = {"market": str(before.market)}
        if said != why:
            data["said"] = said
        if state is State.READY or (state is State.TERMINATING and before.state in STARTING):
            data["phases"] = self._cold_start.told()
        if self.replica.gone is not None:
            data["gone"] = str(self.replica.gone)
        if self.replica.gone is not None and state is State.GONE:
            self._hands.metrics.gone(before.market, self.replica.gone)
        if self._staged:
            data["staged"] = True
        if rule is not None:
            data["rule"] = str(rule)
        kind = EventKind.GONE if state is State.GONE else EventKind.STATE
        await self._record(kind, f"{before.state} → {state}: {why}", data)

    async def _record(self, kind: EventKind, message: str, data: Mapping[str, Any] | None = None) -> None:
        await self._hands.journal.event(kind, message, replica=self.replica.id, zone=self.replica.zone, data=data)

    def _tell(self, kind: NewsKind, detail: str, *, lead_s: float | None = None) -> None:
        detail = in_short(redact(detail))
        replica, now_s = self.replica, self._now_s()
        held_s = now_s - self.begun_s if replica.vm_id is not None else None
        kind_of_vm = replica.offer.instance_type
        self._hands.news(
            ZoneNews(
                replica.zone,
                replica.market,
                kind,
                now_s,
                detail,
                held_s,
                lead_s,
                kind_of_vm,
                self._staged,
                replica.version,
            )
        )

    def _tell_cloud(self, kind: NewsKind, detail: str) -> None:
        """What befell this replica would befall any other on the same cloud."""
        detail = redact(detail)
        mine, now_s = self.replica.offer, self._now_s()
        places = {(one.zone, one.market) for one in self._hands.offers() if one.cloud == mine.cloud}
        for zone, market in sorted(places - {(mine.zone, mine.market)}):
            self._hands.news(ZoneNews(zone, market, kind, now_s, detail))

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
