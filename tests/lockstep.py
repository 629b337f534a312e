"""The lock step of the paper's simulator in few lines: no notices, one cold start, no tick skipped unless told.

It is the yardstick for the policies and for the simulated world, so it is kept apart from both.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from hedgeserve.hedge import Drain, Launch, NewsKind, Observation, Policy, Terminate, ZoneNews
from hedgeserve.replica import STARTING, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.simulate.setting import OfferModel
from hedgeserve.simulate.tracefiles import load_traces
from hedgeserve.simulate.traces import TraceSet

BORN = datetime(2026, 1, 1, tzinfo=UTC)


def paper_offers(traces: TraceSet, k: float = 3.0) -> tuple[Offer, ...]:
    """Spot for 1 USD per hour in each zone, on-demand for ``k`` in the first."""
    spot = tuple(Offer(trace.zone, "v100", Market.SPOT, 1.0, BORN) for trace in traces)
    return (*spot, Offer(traces.zones[0].zone, "v100", Market.ON_DEMAND, k, BORN))


def paper_models(traces: TraceSet) -> tuple[OfferModel, ...]:
    """The same offers as a simulated world has them: a cold start of 120 s and no notice."""
    capacity = {trace.zone: trace for trace in traces}
    return tuple(
        OfferModel(offer=offer, capacity=capacity[offer.zone] if offer.market is Market.SPOT else None)
        for offer in paper_offers(traces)
    )


def recorded(name: str) -> TraceSet:
    """One folder of recorded capacity; a test that needs it is skipped where the data is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HEDGESERVE_DATA", default)) / "spot" / name
    if not folder.is_dir():
        pytest.skip(f"no recorded capacity in {folder}; HEDGESERVE_DATA names the folder that has spot/{name}")
    return load_traces(folder)


def window_offsets(traces: TraceSet, count: int, *, tick_s: float = 30.0, ticks: int = 2880) -> list[int]:
    """The paper's windows: so many ticks after the first count, in the order in which its simulator draws them."""
    draw = np.random.RandomState(0)
    return [int(draw.randint(0, int(traces.duration_s / tick_s) - ticks)) for _ in range(count)]


@dataclass
class Lockstep:
    """One window, driven tick by tick; ``availability`` and ``cost`` are shares, of the time and of on-demand."""

    policy: Policy
    traces: TraceSet
    offset: int
    ticks: int = 2880
    target: int = 3
    cold_start: int = 4
    tick_s: float = 30.0
    eager: bool = True
    replicas: dict[ReplicaId, Replica] = field(default_factory=dict)
    born: int = 0
    usd: float = 0.0
    satisfied: int = 0
    news: list[ZoneNews] = field(default_factory=list)
    asked: int = 0

    def run(self) -> "Lockstep":
        offers = paper_offers(self.traces)
        times = (self.offset + np.arange(self.ticks)) * self.tick_s
        columns = {
            trace.zone: trace.counts[(times // trace.gap_s).astype(int) % len(trace.counts)].tolist()
            for trace in self.traces
        }
        capacities = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        again_s: float | None = 0.0
        for tick in range(self.ticks):
            now_s = tick * self.tick_s
            if self.eager or self.news or (again_s is not None and again_s <= now_s):
                again_s = self._ask(
                    Observation(now_s, self.target, tuple(self.replicas.values()), offers), capacities[tick]
                )
            self._clip(now_s, capacities[tick])
            self._boot(now_s)
            if tick >= self.cold_start:
                self.usd += sum(one.offer.usd_per_hour for one in self.replicas.values()) * self.tick_s / 3600
                ready = sum(one.state is State.READY for one in self.replicas.values())
                self.satisfied += ready >= self.target
        return self

    @property
    def availability(self) -> float:
        return self.satisfied / (self.ticks - self.cold_start)

    @property
    def cost(self) -> float:
        return self.usd / (self.ticks * self.tick_s / 3600 * self.target * 3.0)

    def _ask(self, seen: Observation, capacity: dict[ZoneId, int]) -> float | None:
        self.asked += 1
        for news in self.news:
            self.policy.observe(news)
        self.news = []
        plan = self.policy.plan(seen)
        for action in plan.actions:
            if isinstance(action, Drain | Terminate):
                one = self.replicas.pop(action.replica)
                assert (one.state in STARTING) == isinstance(action, Terminate)
                self._tell(one.offer, NewsKind.RELEASED, seen.now_s)
        for action in plan.actions:
            if isinstance(action, Launch):
                self._launch(action.offer, seen.now_s, capacity)
        return plan.again_at_s

    def _launch(self, offer: Offer, now_s: float, capacity: dict[ZoneId, int]) -> None:
        if offer.market is Market.SPOT and len(list(self._spot(offer.zone))) >= capacity[offer.zone]:
            self._tell(offer, NewsKind.NO_CAPACITY, now_s)
            return
        self.born += 1
        name, created_at = ReplicaId(f"sim-{self.born}"), BORN + timedelta(seconds=now_s)
        self.replicas[name] = Replica(name, offer, State.LOADING, now_s, created_at)
        self._tell(offer, NewsKind.GRANTED, now_s)

    def _clip(self, now_s: float, capacity: dict[ZoneId, int]) -> None:
        for zone, most in capacity.items():
            for one in list(self._spot(zone))[most:]:
                del self.replicas[one.id]
                served = one.state is State.READY
                self._tell(one.offer, NewsKind.PREEMPTED if served else NewsKind.NO_CAPACITY, now_s)

    def _boot(self, now_s: float) -> None:
        for one in list(self.replicas.values()):
            if one.state is State.LOADING and now_s - one.since_s >= self.cold_start * self.tick_s:
                self.replicas[one.id] = replace(one, state=State.READY, since_s=now_s, ready_since_s=now_s)
                self._tell(one.offer, NewsKind.READY, now_s)

    def _spot(self, zone: ZoneId) -> Iterator[Replica]:
        return (one for one in self.replicas.values() if one.zone == zone and one.market is Market.SPOT)

    def _tell(self, offer: Offer, kind: NewsKind, at_s: float) -> None:
        self.news.append(ZoneNews(offer.zone, offer.market, kind, at_s))
