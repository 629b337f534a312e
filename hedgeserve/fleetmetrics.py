"""What is counted and measured of replicas, of the decisions about them, and of this process."""

import platform
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import product

from hedgeserve._version import __version__
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)
from hedgeserve.meters import Meters
from hedgeserve.policy.plan import Action, Drain, Launch, Plan, Rule, Terminate
from hedgeserve.policy.rollout import Strategy
from hedgeserve.replica import GoneReason, Market, Replica, State, ZoneId

_LONG_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 3600.0)
_LEAD_S = (1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0, 90.0, 120.0, 300.0, 600.0, 3600.0)
_SHORT_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CLOUD_ERRORS = (CloudError, CapacityError, QuotaError, AuthError, ThrottledError, UnsupportedError)
_LAUNCH_RESULTS = ("ok", *(error.kind for error in _CLOUD_ERRORS))
_ACTION_KINDS: dict[type[Action], str] = {Launch: "launch", Drain: "drain", Terminate: "terminate"}
_BOUGHT = (Market.SPOT, Market.ON_DEMAND)
_ROLLOUT_RESULTS = ("done", "rolled_back", "superseded")
_PURPOSES = ("serving", "booting", "draining")
_SERVING = (State.READY, State.NOTICED)
BOOT_PHASES = (
    "boot", "ssh", "cloud_init", "driver", "scratch", "upload", "install", "start", "load", "first_token", "total",
)  # fmt: skip
"""The phases of a cold start, in their order."""


class FleetMetrics(Meters):
    """Metrics for the fleet, the tick and the process."""

    def __init__(self) -> None:
        super().__init__()
        self._replicas = self._gauge("replicas", "Replicas by state", "state", "market", "zone")
        self._ready = self._gauge("replicas_ready", "Replicas that serve, those under notice included")
        self._target = self._gauge("replica_target", "Replicas that the load needs")
        self._wanted = self._gauge("replicas_wanted", "Replicas that the policy wants", "market")
        self._model_version = self._gauge("model_version", "Version of the model that is wanted")
        self._rollout_active = self._gauge("rollout_active", "Whether a roll-out is under way", "strategy")
        self._rollout_left = self._gauge("rollout_replicas_left", "Replicas that a roll-out has yet to replace")
        self._rollouts = self._counter("rollouts_total", "Roll-outs that have ended", "strategy", "result")
        self._launches = self._counter("launches_total", "VMs asked for", "zone", "market", "result")
        self._preemptions = self._counter(
            "preemptions_total", "VMs that the cloud took back", "zone", "market", "notice"
        )
        self._leads_s = self._histogram(
            "notice_lead_seconds", "From a preemption notice to the end that it announces", _LEAD_S, "market"
        )
        self._rebalances = self._counter(
            "rebalances_total", "Recommendations of clouds to move elsewhere", "zone", "market"
        )
        self._gone = self._counter("replicas_gone_total", "Replicas that are gone", "market", "reason")
        self._decisions = self._counter("decisions_total", "Decisions of the policy", "kind", "rule")
        self._boot_s = self._histogram("boot_duration_seconds", "From launch to ready, by phase", _LONG_S, "phase")
        self._ssh_losses = self._counter("ssh_losses_total", "SSH connections to VMs that broke", "cloud")
        self._watch_troubles = self._counter(
            "watch_troubles_total", "Times that a VM's notices could not be watched", "cloud"
        )
        self._terminate_failures = self._counter(
            "terminate_failures_total", "Attempts to terminate a VM that failed", "cloud"
        )
        self._reaped = self._counter("vms_reaped_total", "VMs terminated because no replica owned them", "cloud")
        self._spend = self._counter("spend_dollars_total", "US dollars spent on VMs", "market", "purpose")
        self._baseline = self._counter(
            "baseline_dollars_total", "US dollars that the target would have cost on demand alone"
        )
        self._saved = self._gauge("saved_dollars", "US dollars saved against on-demand alone in this month (UTC)")
        self._budget_used = self._gauge("budget_used_ratio", "Part of a cap on spending that is used", "period")
        self._budget_limit = self._gauge("budget_limit_dollars", "The cap on spending", "period")
        self._tick_s = self._histogram(
            "tick_duration_seconds", "How long rounds of the control loop take", _SHORT_S
        )
        self._last_tick = self._gauge(
            "last_tick_timestamp_seconds", "When the control loop last ended a round well, in seconds since 1970"
        )
        self._trouble = self._gauge("trouble", "Whether something is the matter with this part: 1, else 0", "part")
        self._drill = self._gauge("drill_running", "Whether a drill goes on: 1, else 0")
        self._loop_lag_s = self._histogram(
            "loop_lag_seconds", "How late the event loop runs what is due", _SHORT_S
        )
        self._places: set[tuple[Market, ZoneId]] = set()
        self._seen: set[tuple[Market, ZoneId]] = set()
        for market in _BOUGHT:
            self._wanted.labels(market)
            for purpose in _PURPOSES:
                self._spend.tally(market, purpose)
            self._leads_s.series(market)
        for market, reason in product(Market, GoneReason):
            self._gone.tally(market, reason)
        for strategy, result in product(Strategy, _ROLLOUT_RESULTS):
            self._rollouts.tally(strategy, result)
        for kind, rule in product(_ACTION_KINDS.values(), Rule):
            self._decisions.tally(kind, rule)
        for phase in BOOT_PHASES:
            self._boot_s.series(phase)
        self._gauge("build_info", "Version of HedgeServe and of Python; always 1", "version", "python").labels(
            __version__, platform.python_version()
        ).set(1)

    # What there may be: shown from the start, with 0, so that the rate of a first one can be seen.

    def expect_clouds(self, clouds: Iterable[str]) -> None:
        """VMs may be on these clouds."""
        for cloud in clouds:
            for counter in (self._ssh_losses, self._watch_troubles, self._terminate_failures, self._reaped):
                counter.tally(cloud)

    def expect_places(self, places: Iterable[tuple[Market, ZoneId]]) -> None:
        """VMs may be launched in these places."""
        for market, zone in {*places} - self._places:
            self._places.add((market, zone))
            for result in _LAUNCH_RESULTS:
                self._launches.tally(zone, market, result)
            if market is Market.SPOT:
                self._rebalances.tally(zone, market)
                for notice in ("notice", "none"):
                    self._preemptions.tally(zone, market, notice)

    def watch_troubles(self, troubles: Mapping[str, Callable[[], bool]]) -> None:
        """Ask each part at each scrape whether something is the matter with it."""
        for part, ask in troubles.items():
            self._trouble.labels(part).set_function(ask)

    # Replicas.

    def set_replicas(self, replicas: Iterable[Replica]) -> None:
        """All replicas as they are now; a place once seen is shown with 0 when it has none any more."""
        counts: dict[tuple[State, Market, ZoneId], int] = {}
        for replica in replicas:
            self._seen.add((replica.market, replica.zone))
            key = (replica.state, replica.market, replica.zone)
            counts[key] = counts.get(key, 0) + 1
        for market, zone in self._seen:
            for state in State:
                if state is not State.GONE:
                    self._replicas.labels(state, market, zone).set(counts.get((state, market, zone), 0))
        self._ready.set(sum(count for (state, _, _), count in counts.items() if state in _SERVING))

    def planned(self, plan: Plan) -> None:
        """What the load needs, and what the policy makes of it."""
        self._target.set(plan.target)
        self._wanted.labels(Market.SPOT).set(plan.spot_wanted)
        self._wanted.labels(Market.ON_DEMAND).set(plan.on_demand_wanted)

    def rolling(self, version: int, strategy: str | None, left: int) -> None:
        """The version that is wanted, and how the roll-out that brings it in (None: there is none) stands."""
        self._model_version.set(version)
        self._rollout_left.set(left)
        for each in Strategy:
            self._rollout_active.labels(each).set(each == strategy)

    def rolled_out(self, strategy: str, result: str) -> None:
        """A roll-out has ended: ``done``, ``rolled_back`` or ``superseded``."""
        self._rollouts.tally(strategy, result).count += 1

    def decided(self, action: Action) -> None:
        """A decision of the policy is being carried out."""
        self._decisions.tally(_ACTION_KINDS[type(action)], action.rule).count += 1

    def launched(self, zone: ZoneId, market: Market, error: CloudError | None = None) -> None:
        """A cloud was asked for a VM and gave it, or refused with ``error``."""
        self.expect_places([(market, zone)])
        self._launches.tally(zone, market, error.kind if error else "ok").count += 1

    def booted(self, phase: str, duration_s: float) -> None:
        """A phase of a replica's start took this long; ``phase`` is one of bootstrap's own few names."""
        self._boot_s.series(phase).observe(duration_s)

    def preempted(self, zone: ZoneId, market: Market, *, lead_s: float | None) -> None:
        """A cloud took a VM back: after a notice, of so long before, or without one."""
        self._preemptions.tally(zone, market, "none" if lead_s is None else "notice").count += 1
        if lead_s is not None:
            self._leads_s.series(market).observe(lead_s)

    def rebalance(self, zone: ZoneId, market: Market) -> None:
        """A cloud recommended to move elsewhere."""
        self._rebalances.tally(zone, market).count += 1

    def gone(self, market: Market, reason: GoneReason) -> None:
        """A replica is gone."""
        self._gone.tally(market, reason).count += 1

    def ssh_lost(self, cloud: str) -> None:
        """A connection to a VM that had been there broke."""
        self._ssh_losses.tally(cloud).count += 1

    def watch_failed(self, cloud: str) -> None:
        """A VM's notices cannot be watched at the moment."""
        self._watch_troubles.tally(cloud).count += 1

    def not_terminated(self, cloud: str) -> None:
        """A VM that should go could not be terminated this time: it goes on costing money."""
        self._terminate_failures.tally(cloud).count += 1

    def reaped(self, cloud: str) -> None:
        """A VM without an owner was terminated."""
        self._reaped.tally(cloud).count += 1

    def spent(self, market: Market, purpose: str, usd: float) -> None:
        """This much more was spent; ``purpose`` is what a replica was doing: serving, booting or draining."""
        self._spend.tally(market, purpose).count += usd

    def on_demand_alone(self, usd: float) -> None:
        """This much more it would have been on demand alone."""
        self._baseline.tally().count += usd

    def saved(self, usd: float) -> None:
        """So much was saved in this month."""
        self._saved.set(usd)

    def capped(self, caps: Iterable[tuple[str, float, float]]) -> None:
        """How much of each cap is used: its period, its limit, what is used."""
        for period, limit_usd, used_usd in caps:
            self._budget_limit.labels(period).set(limit_usd)
            self._budget_used.labels(period).set(used_usd / limit_usd)

    # The process.

    def ticked(self, duration_s: float) -> None:
        """The control loop has ended a round, and well."""
        self._tick_s.series().observe(duration_s)
        self._last_tick.set(time.time())

    def drilling(self, running: bool) -> None:
        """A drill has begun, or has ended."""
        self._drill.set(int(running))

    def loop_lagged(self, lag_s: float) -> None:
        """Something due was run this much too late."""
        self._loop_lag_s.series().observe(lag_s)
