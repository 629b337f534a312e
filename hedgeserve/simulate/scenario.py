"""What is back-tested: a world of zones with their records and prices, a target, and how each policy is set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from hedgeserve.errors import BacktestError
from hedgeserve.replica import Market, Offer
from hedgeserve.simulate.servicemodel import OnLoss, PaperService, ServiceModel
from hedgeserve.simulate.setting import OfferModel, WorldSetting
from hedgeserve.simulate.traces import TraceSet
from hedgeserve.simulate.workload import Workload
from hedgeserve.spec import BudgetSpec, HedgeSpec, ReplicasSpec, ScheduleSpec

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""When prices of simulated offers were read: a fixed time, so that runs can be compared byte for byte."""


_NO_BOUND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperSetting:
    """The world of the paper's micro-benchmarks (arXiv 2411.01438, section 5.2): one price for all zones.

    ``target`` replicas are needed at all times; on-demand costs ``price_ratio`` times as much as spot, which
    costs 1 USD an hour. ``overprovision`` None is each policy's own N_extra: 0 for those that know spot alone,
    1 for the others. The paper knows no notice: ``notice_s`` is 0. Times in seconds.
    """

    target: int = 3
    price_ratio: float = 3.0
    cold_start_s: float = 120.0
    notice_s: float = 0.0
    overprovision: int | None = None
    window_s: float = 86400.0
    tick_s: float = 30.0


@dataclass(frozen=True, slots=True)
class PoissonRequests:
    """Requests at random, so many a second on average, drawn anew for each window."""

    rate_per_s: float


Requests = Workload | PoissonRequests
"""Recorded requests, whose time runs with the traces' and which begin anew when they end, or random ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The requests of a back-test, and how they are answered; with ``scaled`` they set the target too."""

    requests: Requests
    service: ServiceModel
    on_loss: OnLoss
    queue_timeout_s: float
    total_timeout_s: float
    max_queue: int
    clients: int = 1
    scaled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole back-test but for the policies and the windows: plain data, so that it can be sent elsewhere.

    ``policies`` are the names that are tried when none is said. ``overprovision`` is N_extra for every policy;
    None: what each has in the paper, and in ``hedge``. ``demand`` None: no requests are simulated. ``schedule``
    None: no calendar; the record begins at ``begins_at`` by it.
    """

    name: str
    record: str
    record_s: float
    offers: tuple[OfferModel, ...]
    target: int
    hedge: HedgeSpec
    replicas: ReplicasSpec
    policies: tuple[str, ...]
    overprovision: int | None
    window_s: float = 86400.0
    warm_up_s: float = 0.0
    tick_s: float = 30.0
    launch_latency_s: float = 0.0
    drain_s: float = 0.0
    preemption_order: str = "newest"
    demand: Demand | None = None
    schedule: ScheduleSpec | None = None
    budget: BudgetSpec | None = None
    begins_at: datetime = EPOCH
    notes: tuple[str, ...] = field(default=())

    @property
    def on_demand_usd_per_hour(self) -> float | None:
        """The cheapest on-demand price; None where there is none."""
        prices = [model.offer.usd_per_hour for model in self.offers if model.offer.market is Market.ON_DEMAND]
        return min(prices, default=None)

    @property
    def fixed(self) -> bool:
        """Whether the target is the same at all times."""
        return self.schedule is None and (self.demand is None or not self.demand.scaled)

    def setting(self, *, start_s: float, seed: int) -> WorldSetting:
        """One window of it."""
        return WorldSetting(
            offers=self.offers,
            target=self.target,
            start_s=start_s,
            window_s=self.window_s,
            warm_up_s=self.warm_up_s,
            tick_s=self.tick_s,
            launch_latency_s=self.launch_latency_s,
            drain_s=self.drain_s,
            preemption_order=self.preemption_order,
            seed=seed,
        )


PAPER_POLICIES = (
    "on-demand",
    "even-spread",
    "round-robin",
    "round-robin-fallback",
    "spothedge-artifact",
    "spothedge",
    "forecast",
    "omniscient",
)
"""What the paper compares, the policies of production, and the bound that none can pass."""


MODEL_POLICIES = tuple(name for name in PAPER_POLICIES if name != "spothedge-artifact")
"""The same for a model.toml, whose zones have prices of their own."""


def paper_scenario(traces: TraceSet, setting: PaperSetting, *, requests: Requests | None = None) -> Scenario:
    """The paper's world on these traces: every zone of them, all at one price.

    ``requests`` are answered as in the published simulator: one at a time by each replica, in exponential times
    of 10 s on average; who has waited for 100 s, or finds no replica, has failed. They do not set the target.
    """
    offers: list[OfferModel] = []
    for trace in traces:
        spot = Offer(trace.zone, "any", Market.SPOT, 1.0, EPOCH)
        on_demand = Offer(trace.zone, "any", Market.ON_DEMAND, setting.price_ratio, EPOCH)
        cold_start = (setting.cold_start_s,)
        offers.append(OfferModel(offer=spot, capacity=trace, cold_start_s=cold_start, notice_s=setting.notice_s))
        offers.append(OfferModel(offer=on_demand, cold_start_s=cold_start))
    extra = setting.overprovision
    hedge = HedgeSpec(overprovision=1 if extra is None else extra)
    return Scenario(
        name="paper",
        record=traces.name,
        record_s=traces.duration_s,
        offers=tuple(offers),
        target=setting.target,
        hedge=hedge.model_copy(update={"notice_lead": setting.notice_s}),
        replicas=ReplicasSpec(count=setting.target),
        policies=PAPER_POLICIES,
        overprovision=extra,
        window_s=setting.window_s,
        warm_up_s=whole_ticks(setting.cold_start_s, setting.tick_s),
        tick_s=setting.tick_s,
        demand=None if requests is None else _paper_demand(requests),
        notes=traces.notes,
    )


def whole_ticks(time_s: float, tick_s: float) -> float:
    """When a time is over in a world that looks once a tick: replicas are ready, and counted, then."""
    return math.ceil(round(time_s / tick_s, 9)) * tick_s


def _paper_demand(requests: Requests) -> Demand:
    return Demand(
        requests=requests,
        service=PaperService(wait_for_replica=False),
        on_loss=OnLoss.FINISH,
        queue_timeout_s=100.0,
        total_timeout_s=math.inf,
        max_queue=_NO_BOUND,
        clients=3,
    )


def window_starts_s(scenario: Scenario, *, windows: int, seed: int) -> tuple[float, ...]:
    """Where each window begins in the record, in seconds: drawn in whole ticks, as the paper's simulator draws.

    The same seed gives the paper's windows (``numpy.random.RandomState``, one draw a window). A record that is
    just as long as a window has only one.

    Raises:
        BacktestError: The record is shorter than a window, or the window no multiple of the tick.
    """
    ticks, window = int(scenario.record_s // scenario.tick_s), round(scenario.window_s / scenario.tick_s)
    if window < 1 or abs(window * scenario.tick_s - scenario.window_s) > 1e-6:
        raise BacktestError(
            f"a window of {scenario.window_s:g} s is no whole number of ticks of {scenario.tick_s:g} s; "
            "change --window or --tick"
        )
    if scenario.warm_up_s >= scenario.window_s:
        raise BacktestError(
            f"a window of {scenario.window_s:g} s ends before the warm-up of {scenario.warm_up_s:g} s (one cold "
            "start), which does not count; say a longer --window"
        )
    if ticks < window:
        raise BacktestError(
            f"the traces in {scenario.record} hold {scenario.record_s:g} s, less than one window of "
            f"{scenario.window_s:g} s; say a shorter --window"
        )
    if ticks == window:
        return (0.0,)
    draw = np.random.RandomState(seed)
    return tuple(int(draw.randint(0, ticks - window)) * scenario.tick_s for _ in range(windows))


def with_price_ratio(scenario: Scenario, ratio: float) -> Scenario:
    """The same world with on-demand at so many times its zone's cheapest spot price."""
    spot: dict[str, float] = {}
    for model in scenario.offers:
        if model.offer.market is Market.SPOT:
            usd = model.offer.usd_per_hour
            spot[model.offer.zone] = min(usd, spot.get(model.offer.zone, usd))
    if not spot:
        raise BacktestError("no zone has a spot price, so that a price ratio means nothing")
    base = min(spot.values())
    offers = tuple(
        replace(model, offer=replace(model.offer, usd_per_hour=ratio * spot.get(model.offer.zone, base)))
        if model.offer.market is Market.ON_DEMAND
        else model
        for model in scenario.offers
    )
    return replace(scenario, offers=offers)


def with_zones(scenario: Scenario, count: int) -> Scenario:
    """The same world with its first zones alone."""
    zones = list(dict.fromkeys(model.offer.zone for model in scenario.offers))
    if not 1 <= count <= len(zones):
        raise BacktestError(f"zones = {count} cannot be tried: there are {len(zones)} ({', '.join(zones)})")
    kept = set(zones[:count])
    return replace(scenario, offers=tuple(model for model in scenario.offers if model.offer.zone in kept))


def with_cold_start(scenario: Scenario, cold_starts_s: Sequence[float]) -> Scenario:
    """The same world with these cold starts, equally likely, in every zone; the warm-up is the longest of them."""
    offers = tuple(replace(model, cold_start_s=tuple(cold_starts_s)) for model in scenario.offers)
    return replace(scenario, offers=offers, warm_up_s=whole_ticks(max(cold_starts_s), scenario.tick_s))


def with_notice(scenario: Scenario, notice_s: float) -> Scenario:
    """The same world with preemptions announced so long before, which the policies know."""
    offers = tuple(
        replace(model, notice_s=notice_s) if model.offer.market is Market.SPOT else model
        for model in scenario.offers
    )
    return replace(scenario, offers=offers, hedge=scenario.hedge.model_copy(update={"notice_lead": notice_s}))


def with_target(scenario: Scenario, target: int) -> Scenario:
    """The same world with so many replicas needed at all times; requests and hours no longer set it."""
    demand = None if scenario.demand is None else replace(scenario.demand, scaled=False)
    return replace(scenario, target=target, demand=demand, schedule=None)


def with_overprovision(scenario: Scenario, extra: int) -> Scenario:
    """The same world with this N_extra for every policy."""
    return replace(scenario, hedge=scenario.hedge.model_copy(update={"overprovision": extra}), overprovision=extra)
