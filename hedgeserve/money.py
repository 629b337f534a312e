"""The service's money: what is spent and what it would have been on demand, and plans held within the caps.

The journal is the book; what is kept here are sums of it, read at the start and added to as lines are written, so
that a tick waits for no disk. What on demand alone would have cost is written once a minute and at the end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from hedgeserve.balancer import Closed, Closure
from hedgeserve.books import read_account
from hedgeserve.budgets import budget_of
from hedgeserve.errors import StateDirectoryError
from hedgeserve.fleet import EventKind
from hedgeserve.hedge import (
    Cap,
    Held,
    Marks,
    Means,
    Observation,
    Period,
    Plan,
    Purse,
    Rung,
    Spent,
    baseline_usd_per_hour,
    begin_of,
    compares,
)
from hedgeserve.metrics import Metrics
from hedgeserve.policy.ledger import Baseline, Line
from hedgeserve.spec import Spec
from hedgeserve.store import Store

_KEEP_EVERY_S = 60.0
_TELL_AGAIN_S = 600.0

_log = structlog.get_logger("hedgeserve.money")


@dataclass(slots=True)
class Run:
    """What has been spent since the start, and what on demand alone would have come to in that time.

    ``unpriced_s`` of the ``seconds`` had no on-demand price, and so nothing to compare with.
    """

    usd: float = 0.0
    alone_usd: float = 0.0
    seconds: float = 0.0
    unpriced_s: float = 0.0


class Money:
    """Counts, forecasts and caps. ``record`` writes an event."""

    def __init__(
        self,
        spec: Spec,
        store: Store,
        journal: Path,
        metrics: Metrics,
        record: Callable[[EventKind, str], Awaitable[None]],
    ) -> None:
        self._service = spec.service.name
        self._store, self._journal, self._metrics, self._record = store, journal, metrics, record
        self._lease_s = spec.timeouts.lease
        self._budget = budget_of(spec)
        self._marks = Marks()
        self._purse, self._alone = Purse(), Purse()
        self._compared_s = Purse()  # seconds, of which on demand alone has been counted
        self._seen_s: float | None = None
        self._rate: float | None = 0.0
        self._unkept_s: dict[float | None, float] = {}
        self._keeping = asyncio.Lock()
        self._told_s: dict[str, float] = {}
        self._was_reached = self._stuck = False
        self._forecast_usd: float | None = None
        self.run_so_far = Run()
        self.caps: tuple[Cap, ...] = ()
        self.reasons: tuple[str, ...] = ()

    def adopt(self, spec: Spec) -> None:
        """Hold to these caps from now on; one that was reached is looked at anew, by what is spent."""
        self._budget = budget_of(spec)

    async def recall(self, *, vms: bool) -> None:
        """Take up the sums of earlier runs.

        Where ``vms`` were left running, on-demand ones would have run on as well: the time since is counted for
        both, as long as a VM may do without its controller.
        """
        now = _now()
        if vms:
            await count_absence(self._store, self._lease_s, now)
        for period in (Period.DAY, Period.MONTH):
            begin = begin_of(period, now)
            self._purse.put(period, now, await self._store.spent_usd(begin))
            self._alone.put(period, now, await self._store.baseline_usd(begin))
            self._compared_s.put(period, now, await self._store.baseline_s(begin))
        await self._foresee()

    def paid(self, at: datetime, usd: float) -> None:
        """A line was added to the ledger."""
        self._purse.pay(at, usd)
        self.run_so_far.usd += usd

    async def hold(self, plan: Plan, observation: Observation, *, unbilled_usd: float) -> Held:
        """The plan within the caps; what they hold back and how near they are is told as it happens."""
        now = _now()
        self._count(plan, observation)
        spent = self._spent(now, unbilled_usd)
        held = self._budget.hold(plan, observation, now, spent)
        for cap, mark in self._marks.passed(held.caps, now):
            digits = 2 if cap.used_usd >= 1 else 4
            used = f"{cap.used_usd:.{digits}f} USD{' an hour' if cap.period is Period.HOUR else ''}"
            if cap.used_ratio >= mark:  # else it is reached with a drain's length to spare, which is told below
                await self._record(EventKind.BUDGET, f"{mark:.0%} of {cap.sentence} is used: {used}")
        for reason in held.reasons:
            told_s = self._told_s.get(reason)
            if told_s is None or observation.now_s - told_s > _TELL_AGAIN_S:
                await self._record(EventKind.BUDGET, reason)
            self._told_s[reason] = observation.now_s
        reached = any(cap.step is Rung.REACHED for cap in held.caps)
        if self._was_reached and not reached:
            await self._record(EventKind.BUDGET, "no cap is reached any more: VMs are launched as far as they fit")
        self._told_s = {
            reason: at_s for reason, at_s in self._told_s.items() if observation.now_s - at_s <= _TELL_AGAIN_S
        }
        self._was_reached = reached
        self._stuck = reached or held.shut is not None
        self.caps, self.reasons = held.caps, held.reasons
        self._metrics.capped((str(cap.period), cap.limit_usd, cap.used_usd) for cap in held.caps)
        self._metrics.saved(self._alone.spent(Period.MONTH, now) - spent.month)
        return held

    @property
    def trouble(self) -> str:
        """That a cap is reached, or leaves no room for a single VM; empty otherwise."""
        return self.reasons[-1] if self.reasons and self._stuck else ""

    def _count(self, plan: Plan, observation: Observation) -> None:
        """On demand alone, the time since the last look cost what the target and the prices then said."""
        if self._seen_s is not None and (seconds := observation.now_s - self._seen_s) > 0:
            self._unkept_s[self._rate] = self._unkept_s.get(self._rate, 0.0) + seconds
            usd = seconds * (self._rate or 0.0) / 3600
            self._alone.pay(_now(), usd)
            self._compared_s.pay(_now(), seconds)
            self._metrics.on_demand_alone(usd)
            run = self.run_so_far
            run.alone_usd += usd
            run.seconds += seconds
            run.unpriced_s += seconds if self._rate is None else 0.0
        self._seen_s = observation.now_s
        self._rate = baseline_usd_per_hour(plan.target, observation.replicas, observation.offers)

    async def run(self) -> None:
        """Keep what was counted, once a minute, for ever."""
        while True:
            await asyncio.sleep(_KEEP_EVERY_S)
            await self.keep()
            await self._foresee()

    async def keep(self) -> None:
        """Write down what on demand alone would have cost since the last time; a full disk is tried again."""
        async with self._keeping:
            unkept, self._unkept_s = self._unkept_s, {}
            for rate in [*unkept]:
                try:
                    await self._store.add_baseline(unkept[rate], rate, _now())
                except StateDirectoryError:
                    self._unkept_s[rate] = self._unkept_s.get(rate, 0.0) + unkept[rate]

    async def _foresee(self) -> None:
        now = _now()
        try:
            _, self._forecast_usd = await asyncio.to_thread(read_account, self._journal, now, now)
        except StateDirectoryError as error:
            _log.warning("the ledger cannot be read for a forecast", error=str(error))

    def means(self, now_s: float, unbilled_usd: float) -> Means | None:
        """What the caps would make of a plan, for whoever asks and does nothing; None: there is no cap."""
        if not self._budget.periods:
            return None
        now = _now()
        return Means(deepcopy(self._budget), self._spent(now, unbilled_usd), now, now_s)

    def _spent(self, now: datetime, unbilled_usd: float) -> Spent:
        day, month = self._purse.spent(Period.DAY, now), self._purse.spent(Period.MONTH, now)
        return Spent(day + unbilled_usd, month + unbilled_usd)

    def closure(self, held: Held) -> Closure | None:
        """What a request is told while the caps leave nobody to answer it; None: somebody does, or will."""
        if held.shut is None:
            return None
        until = held.shut.until
        if until is None:
            said = "The hourly budget of this service pays for no VM; whoever runs it must raise that."
            return Closure(Closed.BUDGET, said, None)
        opens_at_s = asyncio.get_running_loop().time() + (until - _now()).total_seconds()
        said = f"The budget of this service leaves no VM until {until:%Y-%m-%d %H:%M} UTC; try again then."
        return Closure(Closed.BUDGET, said, opens_at_s)

    def glance(self, unbilled_usd: float) -> dict[str, Any]:
        """This month (UTC) at a glance, for the status."""
        now = _now()
        spent = self._purse.spent(Period.MONTH, now) + unbilled_usd
        alone = self._alone.spent(Period.MONTH, now)
        return {
            "spent_usd": round(spent, 6),
            "baseline_usd": round(alone, 6),
            "saved_usd": round(alone - spent, 6),
            "compares": compares(self._compared_s.spent(Period.MONTH, now)),
            "forecast_month_usd": None if self._forecast_usd is None else round(self._forecast_usd, 2),
            "budget": [cap.document() for cap in self.caps],
        }

    async def account(self, since: datetime | None, unbilled: Sequence[Line]) -> dict[str, Any]:
        """What was spent since then (None: since the month began, UTC), split in every way, JSON-able.

        ``unbilled`` is what the ledger does not hold yet. Nothing is written for the question.
        """
        async with self._keeping:
            now = _now()
            since = begin_of(Period.MONTH, now) if since is None else since
            unkept = [_baseline(seconds, rate, now) for rate, seconds in self._unkept_s.items()]
            account, forecast = await asyncio.to_thread(
                read_account, self._journal, since, now, unbilled=unbilled, unkept=unkept
            )
        return {
            "service": self._service,
            **account.document(),
            "forecast_month_usd": None if forecast is None else round(forecast, 2),
            "caps": [cap.document() for cap in self.caps],
        }


async def count_absence(store: Store, lease_s: float, now: datetime) -> None:
    """Count what on demand alone would have cost while no controller ran, as long as a VM may do without one."""
    if (last := await store.last_baseline()) is None:
        return
    until, rate = last
    seconds = min((now - until).total_seconds(), lease_s)
    if seconds > 0:
        await store.add_baseline(seconds, rate, now)


def _baseline(seconds: float, rate: float | None, at: datetime) -> Baseline:
    usd = seconds * (rate or 0.0) / 3600
    return Baseline(f"{at:%Y-%m-%d}", seconds, usd, seconds if rate is None else 0.0)


def _now() -> datetime:
    return datetime.now(UTC)
