"""One offer of a simulated world: its capacity and its price on the world's grid, and the VMs held there.

The grid's ticks are counted from 0; a time is its tick times ``tick_s``, so that no sum of ticks drifts.
"""

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from hedgeserve.replica import Market, Offer, Replica
from hedgeserve.simulate.setting import OfferModel, PriceTrace, WorldSetting

NEVER = sys.maxsize
"""The tick of what does not happen."""


@dataclass(slots=True, eq=False)
class Vm:
    """One granted launch: the replica as the policy sees it, and what the world knows beyond that.

    ``taken_tick`` is the tick at which the world will take it back, known to the world alone unless the replica
    has a notice; ``drain_until_s`` the time at which a drain ends whatever is still being answered.
    """

    number: int
    site: "Site"
    replica: Replica
    launched_s: float
    ready_s: float | None = None
    noticed_s: float | None = None
    taken_tick: int | None = None
    drain_until_s: float | None = None
    ended: bool = False


class Site:
    """One offer as the world keeps it; ``wake_tick`` is the next tick at which its capacity may take something."""

    def __init__(self, model: OfferModel, setting: WorldSetting, ticks: int) -> None:
        self.model = model
        self.zone, self.market = model.offer.zone, model.offer.market
        self.place = f"{self.zone}/{model.offer.instance_type}/{self.market}"
        self.tells = model.notice_s > 0
        self.lead = int(model.notice_s / setting.tick_s + 1e-9)
        # Only spot is taken back; a bound on on-demand only refuses launches.
        self.takes = model.capacity is not None and self.market is Market.SPOT
        self.held: dict[int, Vm] = {}
        self.marked: dict[int, Vm] = {}
        self.asked = 0
        self.wake_tick = NEVER
        self.grew = False
        self._seed, self._order = setting.seed, setting.preemption_order
        self._start_s = setting.start_s
        self._runs, self._counts = _capacity_runs(model, setting, ticks + self.lead + 1)
        self._below: dict[int, list[int]] = {}
        self.price_ticks, self._offers = _offer_runs(model, setting, ticks)
        self._price = None if model.price is None else _PriceSums(model.price)

    # Capacity

    def capacity(self, tick: int) -> int:
        """How many VMs may be held at this tick."""
        return self._counts[bisect_right(self._runs, tick) - 1]

    def first_below(self, count: int, after: int) -> int:
        """The first tick later than ``after`` that cannot hold so many, or :data:`NEVER`."""
        begins = self._below.get(count)
        if begins is None:
            begins = [tick for tick, held in zip(self._runs, self._counts, strict=True) if held < count]
            self._below[count] = begins
        if not begins:
            return NEVER
        if self._counts[bisect_right(self._runs, after + 1) - 1] < count:
            return after + 1
        found = bisect_left(begins, after + 1)
        return begins[found] if found < len(begins) else NEVER

    def grants(self, tick: int) -> bool:
        """Whether a launch that is asked for at present is granted; every question is a throw of its own."""
        self.asked += 1
        if len(self.held) >= self.capacity(tick):
            return False
        share = self.model.available
        return share >= 1.0 or Random(f"{self._seed}/available/{self.place}/{self.asked}").random() < share

    def add(self, vm: Vm) -> None:
        """Hold one more."""
        self.held[vm.number] = vm
        self.grew = True

    def remove(self, vm: Vm) -> None:
        """Hold it no longer."""
        del self.held[vm.number]
        self.marked.pop(vm.number, None)

    def cold_start_s(self, number: int) -> float:
        """How long this replica takes from its granted launch until it is ready."""
        times = self.model.cold_start_s
        return times[0] if len(times) == 1 else Random(f"{self._seed}/cold/{number}").choice(times)

    # Whom a falling capacity takes

    def mark(self, tick: int) -> list[Vm]:
        """Choose those that the drops until ``tick`` + the lead will take; returns the ones that are told now."""
        told: list[Vm] = []
        first, last = bisect_right(self._runs, tick) - 1, bisect_right(self._runs, tick + self.lead)
        for run in range(first, last):
            taken_tick = max(tick, self._runs[run])
            free = len(self.held) - len(self.marked)
            later = sum(vm.taken_tick is not None and vm.taken_tick > taken_tick for vm in self.marked.values())
            excess = free + later - self._counts[run]
            if excess <= 0:
                continue
            unmarked = (vm for vm in self.held.values() if vm.taken_tick is None)
            for vm in self._victims(unmarked, excess, taken_tick):
                vm.taken_tick = taken_tick
                self.marked[vm.number] = vm
                if not self._is_silent(vm):
                    told.append(vm)
        return told

    def take(self, tick: int) -> list[Vm]:
        """Those that are gone at this tick: whose time has come, and what the capacity cannot hold beside."""
        gone = [vm for vm in self.marked.values() if vm.taken_tick is not None and vm.taken_tick <= tick]
        excess = len(self.held) - len(gone) - self.capacity(tick)
        if excess > 0:
            left = (vm for vm in self.held.values() if vm.taken_tick is None or vm.taken_tick > tick)
            gone += self._victims(left, excess, tick)
        return gone

    def plan_wake(self, tick: int) -> None:
        """Set :attr:`wake_tick`, with everything up to ``tick`` done."""
        self.wake_tick = NEVER
        if not self.takes or not self.held:
            self.grew = False
            return
        free = len(self.held) - len(self.marked)
        if free:
            drop = self.first_below(free, tick)
            # What was launched just now was not looked at when the drops within the lead were.
            soonest = tick + 1 if self.tells and self.grew else drop - self.lead
            self.wake_tick = max(tick + 1, soonest) if drop is not NEVER or self.marked else NEVER
        for vm in self.marked.values():
            if vm.taken_tick is not None:
                self.wake_tick = min(self.wake_tick, vm.taken_tick)
        self.grew = False

    def _victims(self, vms: Iterable[Vm], count: int, tick: int) -> list[Vm]:
        ordered = list(vms)
        if self._order == "newest":
            ordered.reverse()
        elif self._order == "random":
            Random(f"{self._seed}/victims/{self.place}/{tick}").shuffle(ordered)
        return ordered[:count]

    def _is_silent(self, vm: Vm) -> bool:
        share = self.model.no_notice_share
        return share > 0 and Random(f"{self._seed}/silent/{vm.number}").random() < share

    # Price

    def offer(self, tick: int) -> Offer:
        """The offer with its price of this tick."""
        return self._offers[bisect_right(self.price_ticks, tick) - 1]

    def usd(self, begin_s: float, end_s: float) -> float:
        """What one VM costs from ``begin_s`` to ``end_s`` of the window, by the second."""
        if end_s <= begin_s:
            return 0.0
        if self._price is None:
            return (end_s - begin_s) * self.model.offer.usd_per_hour / 3600
        return self._price.until(self._start_s + end_s) - self._price.until(self._start_s + begin_s)


class _PriceSums:
    """What one VM costs from the first price of a trace until any time, the trace beginning anew at its end."""

    def __init__(self, price: PriceTrace) -> None:
        self._gap_s, self._prices = price.gap_s, price.usd_per_hour
        self._sums = [0.0, *accumulate(usd * price.gap_s / 3600 for usd in price.usd_per_hour)]

    def until(self, time_s: float) -> float:
        gaps = int(time_s // self._gap_s)
        rounds, index = divmod(gaps, len(self._prices))
        rest_s = time_s - gaps * self._gap_s
        return rounds * self._sums[-1] + self._sums[index] + rest_s * self._prices[index] / 3600


def _samples(count: int, gap_s: float, setting: WorldSetting, ticks: int) -> npt.NDArray[np.int64]:
    """For each tick the index of the sample that holds there, the record beginning anew at its end."""
    times_s = setting.start_s + np.arange(ticks) * setting.tick_s
    samples: npt.NDArray[np.int64] = np.floor_divide(times_s, gap_s).astype(np.int64) % count
    return samples


def _changes(values: npt.NDArray[Any]) -> list[int]:
    """The ticks at which a value differs from the one before, the first tick included."""
    return [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()]


def _capacity_runs(model: OfferModel, setting: WorldSetting, ticks: int) -> tuple[list[int], list[int]]:
    trace = model.capacity
    if trace is None:
        return [0], [NEVER]
    counts = trace.counts[_samples(len(trace.counts), trace.gap_s, setting, ticks)]
    begins = _changes(counts)
    return begins, counts[begins].tolist()


def _offer_runs(model: OfferModel, setting: WorldSetting, ticks: int) -> tuple[list[int], list[Offer]]:
    if model.price is None:
        return [0], [model.offer]
    trace = np.asarray(model.price.usd_per_hour, dtype=np.float64)
    prices = trace[_samples(len(trace), model.price.gap_s, setting, ticks)]
    begins = _changes(prices)
    offers = {usd: replace(model.offer, usd_per_hour=usd) for usd in set(prices[begins].tolist())}
    return begins, [offers[usd] for usd in prices[begins].tolist()]


def ticks_of(seconds: float, tick_s: float) -> int:
    """The fewest ticks that are at least so long; a hair of rounding makes no further tick."""
    return max(0, math.ceil(seconds / tick_s - 1e-9))
