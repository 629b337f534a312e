"""The simulated world: recorded spot capacity, boots, notices and bills around a policy of production.

The policy is handed the observations and the news that production hands it, and cannot tell the difference. Time
goes in ticks, and at each tick in this order (the lock step of the paper's simulator, arXiv 2411.01438, section
5.2, github MaoZiming/spothedge_ae, with notices and drains added):

1. Drains that are over end. Notices whose time has come are told.
2. The policy plans, from the state at the end of the tick before and what step 1 changed.
3. What it drains or terminates goes; then its launches are judged against the capacity of this tick.
4. What the capacity of this tick cannot hold is gone. The policy learns of steps 3 to 5 at the next tick.
5. Boots that are complete are ready.
6. What is ready, and what is held, is counted until the next tick.

Ticks at which nothing can happen are jumped over: the policy's ``again_at_s`` says when it would change its mind
by itself, and everything else that may happen has a known next tick.
"""

import heapq
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import groupby

from hedgeserve.policy.autoscale import Autoscaler, LoadSignal
from hedgeserve.policy.budget import Budget, Spent
from hedgeserve.policy.ledger import Period, Purse
from hedgeserve.policy.plan import Drain, Launch, NewsKind, Observation, Plan, Policy, Terminate, ZoneNews
from hedgeserve.policy.winddown import Rest, Standing, WindDown, rest_plan
from hedgeserve.replica import STARTING, GoneReason, Market, Notice, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.simulate.load import Load
from hedgeserve.simulate.outcome import Decision, FleetOutcome, Life, Refusal
from hedgeserve.simulate.setting import WorldSetting
from hedgeserve.simulate.settingcheck import SettingError, check_setting
from hedgeserve.simulate.site import NEVER, Site, Vm, ticks_of

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""When every simulated window begins: a fixed time, so that the same world is the same replica by replica."""

_RELEASED = frozenset({GoneReason.SCALED_DOWN, GoneReason.REPLACED})


def run(
    policy: Policy,
    setting: WorldSetting,
    *,
    autoscaler: Autoscaler | None = None,
    load: Load | None = None,
    winddown: WindDown | None = None,
    budget: Budget | None = None,
    begins_at: datetime = _EPOCH,
    on_tick: Callable[[float], None] | None = None,
    every_tick: bool = False,
) -> FleetOutcome:
    """Let this policy keep a fleet through one window; the same arguments give the same outcome.

    ``policy`` and ``autoscaler`` should be new: they remember. With an autoscaler the target is its answer to the
    load's signal, asked at every tick since its answers depend on when it is asked; otherwise the setting's.
    ``winddown`` follows the calendar, by which the window begins at ``begins_at``: in its rests nothing is
    launched, all goes, and requests are turned away. ``budget`` holds every plan within its caps, as production's
    does; it is to be new, too.
    ``on_tick`` is called with the time of every tick that is not jumped over; ``every_tick`` jumps over none,
    which changes the time that a run takes and nothing else.

    Raises:
        SettingError: The setting cannot be simulated, there is an autoscaler without a load, or the policy
            launched what the setting does not offer.
    """
    check_setting(setting)
    if autoscaler is not None and load is None:
        raise SettingError("autoscaler: it needs a load to follow; give one, or let the setting's target hold")
    world = _World(policy, setting, autoscaler, load, winddown, budget, begins_at)
    tick = 0
    while tick < world.ticks:
        if on_tick is not None:
            on_tick(tick * setting.tick_s)
        world.step(tick, look_everywhere=every_tick)
        tick = tick + 1 if every_tick else world.next_tick(tick)
    return world.outcome()


class _World:
    """The fleet, its zones and its books during one window."""

    def __init__(
        self,
        policy: Policy,
        setting: WorldSetting,
        autoscaler: Autoscaler | None,
        load: Load | None,
        winddown: WindDown | None,
        budget: Budget | None,
        begins_at: datetime,
    ) -> None:
        self.ticks = ticks_of(setting.window_s, setting.tick_s)
        self._policy, self._setting, self._autoscaler, self._load = policy, setting, autoscaler, load
        self._sites = [Site(model, setting, self.ticks) for model in setting.offers]
        self._takers = [site for site in self._sites if site.takes]
        self._by_offer = {(site.zone, site.model.offer.instance_type, site.market): site for site in self._sites}
        self._touched: dict[Site, None] = {}
        self._wake_tick = NEVER
        prices = {tick for site in self._sites for tick in site.price_ticks}
        self._price_ticks = [*sorted(prices, reverse=True)]
        self._offers: tuple[Offer, ...] = ()
        self._vms: dict[ReplicaId, Vm] = {}
        self._replicas: tuple[Replica, ...] | None = ()
        self._boots: list[tuple[int, int, Vm]] = []
        self._draining: dict[ReplicaId, Vm] = {}
        self._now_s = 0.0
        self._target = self._needed = setting.target
        self._winddown, self._begins_at = winddown, begins_at
        self._budget, self._purse, self._paid_until_s, self._shut = budget, Purse(), 0.0, False
        self._standing: Standing | None = None
        self._hours_tick = NEVER
        cold_starts_s = sorted(cold_s for model in setting.offers for cold_s in model.cold_start_s)
        self._boot_s = cold_starts_s[len(cold_starts_s) // 2] if cold_starts_s else None
        self._news_is_new = True
        self._again_tick = NEVER
        self._born = 0
        self._refused = self._launches = self._preemptions = 0
        self._usd: dict[Market, list[float]] = {market: [] for market in Market}
        self._held_s: dict[Market, list[float]] = {market: [] for market in Market}
        self._lives: list[tuple[int, Life]] = []
        self._decisions: list[Decision] = []
        self._refusals: list[Refusal] = []
        self._targets: list[tuple[float, int]] = []
        places = sorted({(site.zone, site.market) for site in self._sites})
        self._ready = dict.fromkeys(places, 0)
        self._ready_total = 0
        self._ready_moved: dict[tuple[ZoneId, Market], None] = dict.fromkeys(places)
        self._ready_steps: dict[tuple[ZoneId, Market], list[tuple[float, int]]] = {place: [] for place in places}
        self._enough_since_s: float | None = None
        self._available: list[float] = []

    # The order of a tick

    def step(self, tick: int, *, look_everywhere: bool) -> None:
        """One tick, from the first of its six steps to the last; with a look also where nothing should be due."""
        now_s = self._now_s = tick * self._setting.tick_s
        if self._budget is not None:
            self._pay(now_s)
        due: list[Site] = []
        if look_everywhere:
            due = self._takers
        elif self._wake_tick <= tick:
            due = [site for site in self._takers if site.wake_tick <= tick]
        if self._draining:
            self._end_drains(now_s)
        for site in due:
            self._touched[site] = None
            if site.tells:
                for vm in site.mark(tick):
                    self._tell_notice(vm)
        if self._price_ticks and self._price_ticks[-1] <= tick:
            while self._price_ticks and self._price_ticks[-1] <= tick:
                self._price_ticks.pop()
            self._offers = tuple(site.offer(tick) for site in self._sites)
            self._news_is_new = True
        self._set_target(now_s)
        if look_everywhere or self._news_is_new or tick >= self._again_tick or self._budget is not None:
            self._act(self._ask(), tick)
        for site in due:
            for vm in site.take(tick):
                self._take(vm)
        while self._boots and self._boots[0][0] <= tick:
            vm = heapq.heappop(self._boots)[2]
            if not vm.ended:
                self._become_ready(vm)
        self._count()
        if self._touched:
            for site in self._touched:
                site.plan_wake(tick)
            self._touched.clear()
            self._wake_tick = min([site.wake_tick for site in self._takers], default=NEVER)

    def next_tick(self, tick: int) -> int:
        """The next tick at which anything may happen."""
        if self._news_is_new or self._draining or self._autoscaler is not None or self._budget is not None:
            return tick + 1
        if self._standing is not None and self._standing.on_request and self._load is not None:
            return tick + 1
        soonest = min(self._wake_tick, self._again_tick, self._hours_tick)
        if self._boots:
            soonest = min(soonest, self._boots[0][0])
        if self._price_ticks:
            soonest = min(soonest, self._price_ticks[-1])
        return max(tick + 1, soonest)

    # The policy

    def _set_target(self, now_s: float) -> None:
        signal = None if self._load is None else self._load.signal(now_s)
        standing = None if self._winddown is None else self._look(self._winddown, signal, now_s)
        target = self._target
        if self._autoscaler is not None and signal is not None:
            bounds = None if standing is None else standing.bounds
            target = self._autoscaler.decide(signal, bounds).target
        elif standing is not None:
            target = standing.bounds.lowest
        if target != self._target:
            self._target, self._news_is_new = target, True
        # What runs ahead of its hours is not needed yet: neither is it missed while it boots.
        needed = min(self._needed, target) if standing is not None and standing.ahead else target
        self._needed = needed
        if not self._targets or self._targets[-1][1] != needed:
            self._targets.append((now_s, needed))

    def _look(self, winddown: WindDown, signal: LoadSignal | None, now_s: float) -> Standing:
        standing = winddown.decide(self._now(), signal, boot_s=self._boot_s)
        again = standing.look_again
        if again is None:
            self._hours_tick = NEVER
        else:
            self._hours_tick = ticks_of((again - self._begins_at).total_seconds(), self._setting.tick_s)
        before = Rest.AWAKE if self._standing is None else self._standing.rest
        if standing.rest is not before:
            self._news_is_new = True
            if self._load is not None:
                self._load.close(now_s, closed=standing.rest is not Rest.AWAKE and not standing.on_request)
        self._standing = standing
        return standing

    def _now(self) -> datetime:
        """The time of the calendar."""
        return self._begins_at + timedelta(seconds=self._now_s)

    def _ask(self) -> Plan:
        if self._replicas is None:
            self._replicas = tuple([vm.replica for vm in self._vms.values()])
        self._news_is_new = False
        observation = Observation(self._now_s, self._target, self._replicas, self._offers)
        if self._standing is not None and self._standing.rest is not Rest.AWAKE:
            plan = rest_plan(self._standing, observation, self._now())
        else:
            plan = self._policy.plan(observation)
        if self._budget is not None:
            plan = self._hold(self._budget, plan, observation)
        again_s = plan.again_at_s
        self._again_tick = NEVER if again_s is None else ticks_of(again_s, self._setting.tick_s)
        return plan

    def _hold(self, budget: Budget, plan: Plan, observation: Observation) -> Plan:
        now = self._now()
        spent = Spent(self._purse.spent(Period.DAY, now), self._purse.spent(Period.MONTH, now))
        held = budget.hold(plan, observation, now, spent)
        shut = held.shut is not None
        if shut is not self._shut and self._load is not None:
            self._load.close(self._now_s, closed=shut)
        self._shut = shut
        return held.plan

    def _pay(self, now_s: float) -> None:
        """Every VM that there is now has been there since the tick before."""
        usd = math.fsum(vm.site.usd(max(vm.launched_s, self._paid_until_s), now_s) for vm in self._vms.values())
        if now_s > self._paid_until_s:  # a tick that ends at midnight was spent before it
            self._purse.pay(self._now() - timedelta(microseconds=1), usd)
        self._paid_until_s = now_s

    def _act(self, plan: Plan, tick: int) -> None:
        launches: list[Launch] = []
        for action in plan.actions:
            if isinstance(action, Launch):
                launches.append(action)
                continue
            vm = self._vms.get(action.replica)
            # As in production: an order to what is gone or is ending already comes too late.
            if vm is None or vm.replica.state is State.DRAINING:
                continue
            self._decide(action, vm.site)
            if isinstance(action, Drain) and vm.replica.state not in STARTING:
                self._drain(vm, action)
            else:
                self._let_go(vm, self._now_s, action.gone, action.reason)
        for launch in launches:
            offer = launch.offer
            site = self._by_offer.get((offer.zone, offer.instance_type, offer.market))
            if site is None:
                raise SettingError(
                    f"the policy {self._policy.name} launched {offer.market} {offer.instance_type} in "
                    f"{offer.zone}, which the setting does not offer"
                )
            self._decide(launch, site)
            self._launch(launch, site, tick)

    def _decide(self, action: Launch | Drain | Terminate, site: Site) -> None:
        what = "launch" if isinstance(action, Launch) else "drain" if isinstance(action, Drain) else "terminate"
        self._decisions.append(
            Decision(self._now_s, what, site.zone, site.market, str(action.rule), action.reason)
        )

    def _learn(self, vm: Vm, kind: NewsKind, detail: str, *, lead_s: float | None = None) -> None:
        """What production tells of a VM that is there."""
        held_s = self._now_s - vm.launched_s
        self._policy.observe(ZoneNews(vm.site.zone, vm.site.market, kind, self._now_s, detail, held_s, lead_s))
        self._news_is_new = True

    # What happens to a replica

    def _launch(self, launch: Launch, site: Site, tick: int) -> None:
        now_s, setting = self._now_s, self._setting
        counted = now_s >= setting.warm_up_s
        self._news_is_new = True
        if not site.grants(tick):
            self._refused += counted
            self._refusals.append(Refusal(now_s, site.zone, site.market))
            detail = f"{site.zone} has no {site.model.offer.instance_type} for {site.market} now"
            self._policy.observe(ZoneNews(site.zone, site.market, NewsKind.NO_CAPACITY, now_s, detail))
            return
        self._launches += counted
        self._born += 1
        number = self._born
        id = ReplicaId(f"sim-{number}")
        replica = Replica(
            id, site.offer(tick), State.LOADING, now_s, _EPOCH + timedelta(seconds=now_s), launch.reason, id
        )
        vm = Vm(number, site, replica, now_s)
        site.add(vm)
        self._touched[site] = None
        self._vms[id] = vm
        self._replicas = None
        boot = ticks_of(setting.launch_latency_s + site.cold_start_s(number), setting.tick_s)
        heapq.heappush(self._boots, (tick + boot, number, vm))
        granted = ZoneNews(site.zone, site.market, NewsKind.GRANTED, now_s, "a launch was granted")
        self._policy.observe(granted)

    def _become_ready(self, vm: Vm) -> None:
        vm.ready_s = self._now_s
        self._change(vm, State.READY, "it answered its first token")
        self._count_ready(vm.site, 1)
        if self._load is not None:
            self._load.ready(vm.replica, self._now_s)
        self._learn(vm, NewsKind.READY, "a replica became ready")

    def _tell_notice(self, vm: Vm) -> None:
        assert vm.taken_tick is not None
        vm.noticed_s, deadline_s = self._now_s, vm.taken_tick * self._setting.tick_s
        notice = Notice(deadline_s, vm.replica.offer.cloud)
        lead_s = deadline_s - self._now_s
        why = f"preemption notice: the VM goes in {lead_s:.0f} s ({notice.source})"
        self._count_preemption()
        if vm.ready_s is None:
            # One that will not serve before its end is not waited for, and is as good as refused.
            self._learn(vm, NewsKind.NO_CAPACITY, why, lead_s=lead_s)
            self._end(vm, self._now_s, GoneReason.PREEMPTED)
            return
        self._learn(vm, NewsKind.NOTICE, why, lead_s=lead_s)
        state = State.NOTICED if vm.replica.state is State.READY else vm.replica.state
        self._change(vm, state, why, notice=notice)
        if self._load is not None and state is State.NOTICED:
            self._load.noticed(vm.replica.id, self._now_s)

    def _take(self, vm: Vm) -> None:
        noticed = vm.noticed_s is not None
        if not noticed:
            self._count_preemption()
        how = "at the end of its notice" if noticed else "without a notice"
        kind = NewsKind.NO_CAPACITY if vm.ready_s is None else NewsKind.PREEMPTED
        lead_s = None if vm.noticed_s is None or vm.taken_tick is None else self._now_s - vm.noticed_s
        self._learn(vm, kind, f"the VM was taken away {how}", lead_s=lead_s)
        self._end(vm, self._now_s, GoneReason.PREEMPTED)

    def _drain(self, vm: Vm, action: Drain) -> None:
        if self._load is None:
            self._let_go(vm, self._now_s, action.gone, action.reason)
            return
        until_s = self._now_s + self._setting.drain_s
        vm.drain_until_s = until_s if action.deadline_s is None else min(until_s, action.deadline_s)
        self._count_ready(vm.site, -1)
        self._change(vm, State.DRAINING, action.reason, gone=action.gone)
        self._load.draining(vm.replica.id, self._now_s)
        if vm.drain_until_s <= self._now_s or self._load.idle(vm.replica.id, self._now_s):
            self._let_go(vm, self._now_s, action.gone, action.reason)
        else:
            self._draining[vm.replica.id] = vm

    def _end_drains(self, now_s: float) -> None:
        """End what has drained; what ran out of time did so before this tick, and the load hears it in order."""
        limits = sorted((vm.drain_until_s or 0.0, vm.number, vm) for vm in self._draining.values())
        for until_s, _, vm in limits:
            if until_s <= now_s:
                self._let_go(vm, until_s, vm.replica.gone or GoneReason.SCALED_DOWN, vm.replica.why)
        for vm in [*self._draining.values()]:
            if self._load is not None and self._load.idle(vm.replica.id, now_s):
                self._let_go(vm, now_s, vm.replica.gone or GoneReason.SCALED_DOWN, vm.replica.why)

    def _let_go(self, vm: Vm, end_s: float, gone: GoneReason, why: str) -> None:
        if gone in _RELEASED:
            self._learn(vm, NewsKind.RELEASED, why)
        self._end(vm, end_s, gone)

    def _end(self, vm: Vm, end_s: float, gone: GoneReason) -> None:
        vm.ended = True
        vm.site.remove(vm)
        self._touched[vm.site] = None
        del self._vms[vm.replica.id]
        self._draining.pop(vm.replica.id, None)
        self._replicas = None
        self._news_is_new = True
        if vm.ready_s is not None:
            if vm.replica.state is not State.DRAINING:
                self._count_ready(vm.site, -1)
            if self._load is not None:
                self._load.gone(vm.replica.id, end_s)
        self._record(vm, end_s, vm.replica.gone or gone)

    def _change(
        self,
        vm: Vm,
        state: State,
        why: str,
        *,
        notice: Notice | None = None,
        gone: GoneReason | None = None,
    ) -> None:
        # Built and not Replica.to: the world only takes steps that the table allows, and takes many of them.
        old = vm.replica
        vm.replica = Replica(
            old.id, old.offer, state, old.since_s if state is old.state else self._now_s, old.created_at, why,
            old.vm_id, old.url, vm.ready_s, notice or old.notice, gone or old.gone,
        )  # fmt: skip
        self._replicas = None
        self._news_is_new = True

    # The books

    def _count_ready(self, site: Site, change: int) -> None:
        place = (site.zone, site.market)
        self._ready[place] += change
        self._ready_total += change
        self._ready_moved[place] = None

    def _count_preemption(self) -> None:
        self._preemptions += self._now_s >= self._setting.warm_up_s

    def _count(self) -> None:
        """Step 6: from now on, until something changes, this many are ready."""
        for place in self._ready_moved:
            steps, ready = self._ready_steps[place], self._ready[place]
            if not steps or steps[-1][1] != ready:
                steps.append((self._now_s, ready))
        self._ready_moved.clear()
        enough = self._ready_total >= self._needed
        if enough and self._enough_since_s is None:
            self._enough_since_s = self._now_s
        elif not enough and self._enough_since_s is not None:
            self._add_available(self._enough_since_s, self._now_s)
            self._enough_since_s = None

    def _add_available(self, begin_s: float, end_s: float) -> None:
        self._available.append(max(0.0, end_s - max(begin_s, self._setting.warm_up_s)))

    def _record(self, vm: Vm, end_s: float, gone: GoneReason | None) -> None:
        usd = vm.site.usd(vm.launched_s, end_s)
        life = Life(
            vm.replica.id, vm.site.zone, vm.site.market, vm.launched_s, vm.ready_s, vm.noticed_s, end_s, gone, usd
        )
        self._lives.append((vm.number, life))
        counted_s = max(vm.launched_s, self._setting.warm_up_s)
        if end_s > counted_s:
            self._usd[vm.site.market].append(vm.site.usd(counted_s, end_s))
            self._held_s[vm.site.market].append(end_s - counted_s)

    def outcome(self) -> FleetOutcome:
        """Sum up the window."""
        setting = self._setting
        for vm in self._vms.values():
            self._record(vm, setting.window_s, None)
        if self._enough_since_s is not None:
            self._add_available(self._enough_since_s, setting.window_s)
        load = None if self._load is None else self._load.finish(setting.window_s)
        lives = [life for _, life in sorted(self._lives, key=lambda numbered: numbered[0])]
        return FleetOutcome(
            policy=self._policy.name,
            window_s=setting.window_s,
            warm_up_s=setting.warm_up_s,
            counted_s=setting.window_s - setting.warm_up_s,
            available_s=math.fsum(self._available),
            spot_usd=math.fsum(self._usd[Market.SPOT]),
            on_demand_usd=math.fsum(self._usd[Market.ON_DEMAND]),
            on_demand_h=math.fsum(self._held_s[Market.ON_DEMAND]) / 3600,
            preemptions=self._preemptions,
            launches=self._launches,
            refused=self._refused,
            lives=tuple(lives),
            refusals=tuple(self._refusals),
            decisions=tuple(self._decisions),
            ready={
                zone: {market: tuple(self._ready_steps[zone, market]) for _, market in places}
                for zone, places in groupby(self._ready, key=lambda place: place[0])
            },
            targets=tuple(self._targets),
            load=load,
        )
