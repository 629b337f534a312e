"""The caps on what VMs may cost: which launches fit, what goes when a cap is reached. Pure.

A launch is judged before any cloud is asked, by the worst case: all that runs and boots, and the new one, at the
most that each may come to cost, until the period ends (or for ``budget.horizon``). As that nears a cap, a ladder
is climbed: no spare replicas, no on-demand, no launches. What runs is left alone until a cap is really reached,
which it is a drain's length before the money is spent, so that the drain is paid for too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Any

from hedgeserve.budgetspec import BudgetSpec
from hedgeserve.policy.ledger import Period, begin_of, end_of, price_now
from hedgeserve.policy.plan import Action, Drain, Launch, Observation, Plan, Rule, Terminate
from hedgeserve.policy.winddown import let_go
from hedgeserve.replica import STARTING, GoneReason, Market, Offer, Replica, State
from hedgeserve.units import format_cap, format_duration, format_usd

_LEAN_AT, _SPOT_ONLY_AT = 0.8, 0.9
_MARKS = (0.5, 0.8, 1.0)
_DUST = 1e-9
_NOT_LAUNCHED = "not launched: "
_LEAVING = frozenset({State.DRAINING, State.TERMINATING})


class Rung(IntEnum):
    """How far up the ladder a cap is; each step includes those below it."""

    OPEN = 0
    LEAN = 1  # no replicas to spare
    SPOT_ONLY = 2  # no on-demand ones either
    NO_LAUNCHES = 3
    REACHED = 4  # what runs goes

    def __str__(self) -> str:
        return self.name.lower()

    @property
    def words(self) -> str:
        """What is not done any more."""
        return _RUNGS[self]


_RUNGS = {
    Rung.OPEN: "every launch that fits",
    Rung.LEAN: "no spare replicas",
    Rung.SPOT_ONLY: "no spare and no on-demand replicas",
    Rung.NO_LAUNCHES: "no launches",
    Rung.REACHED: "what runs goes",
}


@dataclass(frozen=True, slots=True)
class Spent:
    """US dollars spent so far in the present day and month."""

    day: float
    month: float


@dataclass(frozen=True, slots=True)
class Cap:
    """One cap at one moment.

    ``used_usd`` is what is spent (of an hourly cap: what all costs an hour now), ``committed_usd`` that and what
    is there already in the worst case, ``left_h`` for how many hours a VM must be paid for. ``least_usd_per_hour``
    is the worst price of the cheapest VM that could be launched, where one could be.
    """

    period: Period
    limit_usd: float
    used_usd: float
    committed_usd: float
    left_h: float
    ends_at: datetime
    step: Rung
    least_usd_per_hour: float | None = None

    @property
    def name(self) -> str:
        """The key of model.toml."""
        return f"budget.usd_per_{self.period}"

    @property
    def used_ratio(self) -> float:
        """The part of it that is used."""
        return self.used_usd / self.limit_usd

    @property
    def sentence(self) -> str:
        """It in words."""
        return f"{self.name} ({format_cap(self.limit_usd, self.period)})"

    @property
    def words(self) -> str:
        """What is launched by it and what is not; where no VM fits, that, though nothing forbids one."""
        least = self.least_usd_per_hour
        if self.step is Rung.OPEN and least is not None and not self.fits(least):
            return f"no VM fits in what is left: the cheapest counts at {least:.2f} USD/h"
        return self.step.words

    @property
    def left_usd(self) -> float:
        """What is not committed yet; never below zero."""
        return max(0.0, self.limit_usd - self.committed_usd)

    @property
    def leaves(self) -> str:
        """In a sentence: what counts for the ladder, how far up it that is, and what is left for another VM."""
        share = f"{self.committed_usd / self.limit_usd:.0%}"
        if self.period is Period.HOUR:
            told = f"what runs may cost {self.committed_usd:.2f} USD/h at worst prices ({share})"
            left = f"{self.left_usd:.2f} USD/h left"
        else:
            span = format_duration(round(self.left_h * 3600))
            told = (
                f"{format_usd(self.used_usd)} spent, and {format_usd(self.committed_usd)} ({share}) if what runs "
                f"goes on for {span} at worst prices"
            )
            most = self.left_usd / self.left_h if self.left_h else 0.0
            left = f"{format_usd(self.left_usd)} left, enough for {most:.2f} USD/h more"
        step = str(self.step).replace("_", " ")
        return f"{self.sentence}: {told}; {left} ({step if step == self.words else f'{step}: {self.words}'})"

    def plus(self, usd_per_hour: float) -> "Cap":
        """With one more VM at this worst price."""
        committed = self.committed_usd + usd_per_hour * self.left_h
        return replace(self, committed_usd=committed, step=max(self.step, _step(committed, self.limit_usd)))

    def fits(self, usd_per_hour: float) -> bool:
        """Whether one more VM at this worst price stays within it."""
        return self.committed_usd + usd_per_hour * self.left_h <= self.limit_usd * (1 + _DUST)

    def document(self) -> dict[str, Any]:
        """It as the status and the admin API tell it."""
        return {
            "name": self.name.partition(".")[2],
            "period": str(self.period),
            "limit_usd": self.limit_usd,
            "used_usd": round(self.used_usd, 6),
            "committed_usd": round(self.committed_usd, 6),
            "used_ratio": round(self.used_ratio, 4),
            "committed_ratio": round(self.committed_usd / self.limit_usd, 4),
            "state": str(self.step),
            "means": self.words,
            "ends_at": self.ends_at.isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, slots=True)
class Shut:
    """Nothing serves, and no launch is allowed: until when (None: as long as the cap is what it is), and why."""

    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """A plan within the caps.

    ``plan`` wants no more than is launched or there; ``reasons`` say what was held back or taken away, and do not
    change with the clock.
    """

    plan: Plan
    caps: tuple[Cap, ...]
    reasons: tuple[str, ...] = ()
    shut: Shut | None = None

    @property
    def step(self) -> Rung:
        """How far up the ladder the nearest cap is."""
        return max((cap.step for cap in self.caps), default=Rung.OPEN)


class Budget:
    """Holds plans within the caps of ``[budget]``.

    ``drain_s`` is the longest that a VM may be kept once it is to go. ``ceilings`` are the prices that pools allow
    at most, by cloud: the worst case of a spot VM whose on-demand price is not known. A cap that was reached stays
    so until its period ends.
    """

    def __init__(self, spec: BudgetSpec, *, drain_s: float, ceilings: Mapping[str, float]) -> None:
        self._limits = {
            period: limit
            for period, limit in (
                (Period.HOUR, spec.usd_per_hour),
                (Period.DAY, spec.usd_per_day),
                (Period.MONTH, spec.usd_per_month),
            )
            if limit is not None
        }
        self._horizon_s = spec.horizon
        self._drain_s = drain_s
        self._ceilings = ceilings
        self._reached: dict[Period, datetime] = {}

    @property
    def periods(self) -> tuple[Period, ...]:
        """Those that there is a cap for."""
        return tuple(self._limits)

    def worst_usd_per_hour(self, offer: Offer, offers: Sequence[Offer]) -> float:
        """The most that a VM of this offer may come to cost an hour, as far as is known.

        On demand: its price. Spot: the on-demand price of the same kind (of that zone, else the dearest of that
        cloud), else what its pools allow at most, else its price now.
        """
        return self._worst(offer, offers)[0]

    def _worst(self, offer: Offer, offers: Sequence[Offer]) -> tuple[float, str]:
        """The same, with words where a spot VM counts at more than it costs; no price that moves is in them."""
        now = max(offer.usd_per_hour, price_now(offer, offers))
        if offer.market is not Market.SPOT:
            return now, ""
        alike = [
            one
            for one in offers
            if one.market is Market.ON_DEMAND
            and one.instance_type == offer.instance_type
            and one.cloud == offer.cloud
        ]
        here = [one.usd_per_hour for one in alike if one.zone == offer.zone]
        known = max(here or [one.usd_per_hour for one in alike], default=None)
        worst = max(now, self._ceilings.get(offer.cloud, now) if known is None else known)
        if worst <= now:
            return worst, ""
        by = "its on-demand price" if known is not None else "`max_usd_per_hour` of its pools"
        return worst, f"; a spot VM counts at {by}, the most that it may come to cost"

    def look(
        self, now: datetime, spent: Spent, replicas: Sequence[Replica], offers: Sequence[Offer]
    ) -> tuple[Cap, ...]:
        """Each cap as it stands."""
        paid = [one for one in replicas if one.market is not Market.EXTERNAL and one.state is not State.GONE]
        rate = sum((price_now(one.offer, offers) for one in paid), 0.0)
        worst = sum((self.worst_usd_per_hour(one.offer, offers) for one in paid), 0.0)
        least = min((self.worst_usd_per_hour(one, offers) for one in offers), default=None)
        caps = (self._cap(period, now, spent, rate, worst) for period in self._limits)
        return tuple(replace(cap, least_usd_per_hour=least) for cap in caps)

    def _cap(self, period: Period, now: datetime, spent: Spent, rate: float, worst: float) -> Cap:
        limit, ends_at = self._limits[period], end_of(period, now)
        if period is Period.HOUR:
            step = Rung.REACHED if rate > limit * (1 + _DUST) else _step(worst, limit)
            return Cap(period, limit, rate, worst, 1.0, ends_at, step)
        used = spent.day if period is Period.DAY else spent.month
        left_s = (ends_at - now).total_seconds()
        paid_s = left_s if self._horizon_s is None else min(left_s, self._horizon_s)
        committed = used + worst * paid_s / 3600
        going = used + worst * min(left_s, self._drain_s) / 3600
        if going >= limit and (used > 0 or worst > 0):
            self._reached[period] = begin_of(period, now)
        reached = self._reached.get(period) == begin_of(period, now)
        step = Rung.REACHED if reached else _step(committed, limit)
        return Cap(period, limit, used, committed, paid_s / 3600, ends_at, step)

    def hold(self, plan: Plan, observation: Observation, now: datetime, spent: Spent) -> Held:
        """The plan without what the caps do not allow, and with what they demand."""
        replicas, offers = observation.replicas, observation.offers
        caps = self.look(now, spent, replicas, offers)
        if not caps:
            return Held(plan, ())
        if over := [cap for cap in caps if cap.step is Rung.REACHED and cap.period is not Period.HOUR]:
            return self._end(plan, observation, now, caps, max(over, key=lambda cap: cap.ends_at))
        alive = sum(one.alive for one in replicas)
        admitted: list[Action] = []
        reasons: dict[str, str] = {}  # each with why that price counts
        refused: Counter[Market] = Counter()
        after = caps
        for action in plan.actions:
            if isinstance(action, Launch):
                worst, counts = self._worst(action.offer, offers)
                spare = action.offer.market is Market.SPOT and alive >= plan.target
                if reason := _refusal(after, action.offer.market, worst, spare=spare):
                    by_price = reason.startswith(_NOT_LAUNCHED)
                    reasons[reason] = reasons.get(reason) or (counts if by_price else "")
                    refused[action.offer.market] += 1
                    continue
                after = tuple(cap.plus(worst) for cap in after)
                alive += 1
            admitted.append(action)
        for action in self._surplus(caps, plan, replicas, offers):
            admitted.append(action)
            reasons[action.reason] = ""
        serves = any(one.alive or one.state is State.NOTICED for one in replicas)
        shut = None if serves or len(admitted) > len(plan.actions) else self._shut(after, offers, admitted)
        if shut is not None:
            reasons[shut.reason] = ""
        left = replace(
            plan,
            spot_wanted=max(0, plan.spot_wanted - refused[Market.SPOT]),
            on_demand_wanted=max(0, plan.on_demand_wanted - refused[Market.ON_DEMAND]),
            actions=tuple(admitted),
        )
        return Held(left, after, tuple(reason + counts for reason, counts in reasons.items()), shut)

    def _end(self, plan: Plan, observation: Observation, now: datetime, caps: tuple[Cap, ...], cap: Cap) -> Held:
        reason = f"{cap.sentence} is reached: no VM until the {cap.period} ends ({cap.ends_at:%Y-%m-%d %H:%M} UTC)"
        actions = let_go(observation.replicas, Rule.BUDGET, reason, None)
        external = any(one.market is Market.EXTERNAL and one.alive for one in observation.replicas)
        again_at_s = observation.now_s + (cap.ends_at - now).total_seconds()
        ended = replace(plan, spot_wanted=0, on_demand_wanted=0, actions=actions, again_at_s=again_at_s)
        return Held(ended, caps, (reason,), None if external else Shut(cap.ends_at, reason))

    def _surplus(
        self, caps: Sequence[Cap], plan: Plan, replicas: Sequence[Replica], offers: Sequence[Offer]
    ) -> list[Drain | Terminate]:
        """What goes because all costs more an hour than it may: what does not serve first, then the dearest."""
        cap = next((cap for cap in caps if cap.period is Period.HOUR and cap.step is Rung.REACHED), None)
        if cap is None:
            return []
        going = {action.replica for action in plan.actions if not isinstance(action, Launch)}
        paid = [one for one in replicas if one.market is not Market.EXTERNAL]
        staying = [one for one in paid if one.state not in _LEAVING and one.id not in going]
        excess = sum(price_now(one.offer, offers) for one in staying) - cap.limit_usd
        reason = f"all VMs cost more than {cap.sentence} allows"
        found: list[Drain | Terminate] = []
        order = sorted(staying, key=lambda one: (one.state not in STARTING, -price_now(one.offer, offers), one.id))
        for one in order:
            if excess <= cap.limit_usd * _DUST:
                break
            excess -= price_now(one.offer, offers)
            kind = Terminate if one.state in STARTING else Drain
            found.append(kind(one.id, Rule.BUDGET, reason, GoneReason.SCALED_DOWN))
        return found

    def _shut(self, caps: Sequence[Cap], offers: Sequence[Offer], admitted: Sequence[Action]) -> Shut | None:
        """Whether nobody can answer: nothing is there, nothing comes, and none of the offers fits."""
        if not offers or any(isinstance(action, Launch) for action in admitted):
            return None
        barred: dict[Period, Cap] = {}
        cheapest = min((self._worst(offer, offers) for offer in offers), key=lambda one: (one[0], not one[1]))
        for offer in offers:
            worst = self.worst_usd_per_hour(offer, offers)
            bars = [cap for cap in caps if _refusal([cap], offer.market, worst, spare=False)]
            if not bars:
                return None
            barred |= {cap.period: cap for cap in bars}
        longest = max(barred.values(), key=lambda cap: (cap.period is Period.HOUR, cap.ends_at))
        until = None if longest.period is Period.HOUR else longest.ends_at
        counts = f": the cheapest counts at {cheapest[0]:.2f} USD/h{cheapest[1]}"
        return Shut(until, f"{longest.sentence} leaves no room for a single VM{counts}")

    def no_room(self, now: datetime, spent: Spent, offers: Sequence[Offer]) -> str:
        """Why not one of these could be launched though nothing runs yet; empty: one could, or there is none."""
        shut = self._shut(self.look(now, spent, (), offers), offers, ())
        return "" if shut is None else shut.reason


class Marks:
    """Which marks (50, 80 and 100 %) of each cap have been passed; each is told once in a period."""

    def __init__(self) -> None:
        self._told: dict[Period, tuple[datetime, float]] = {}

    def passed(self, caps: Sequence[Cap], now: datetime) -> list[tuple[Cap, float]]:
        """The highest mark of each cap that has newly been passed.

        A cap that is reached has passed all of them, though a drain's length of it may be left.
        """
        found = []
        for cap in caps:
            begin, told = self._told.get(cap.period, (now, 0.0))
            if begin != begin_of(cap.period, now):
                told = 0.0
            ratio = 1.0 if cap.step is Rung.REACHED else cap.used_ratio
            mark = max((mark for mark in _MARKS if ratio >= mark - _DUST), default=0.0)
            if mark > told:
                found.append((cap, mark))
            self._told[cap.period] = (begin_of(cap.period, now), max(mark, told))
        return found


def _step(committed: float, limit: float) -> Rung:
    ratio = committed / limit + _DUST
    if ratio >= 1:
        return Rung.NO_LAUNCHES
    return Rung.SPOT_ONLY if ratio >= _SPOT_ONLY_AT else Rung.LEAN if ratio >= _LEAN_AT else Rung.OPEN


def _refusal(caps: Sequence[Cap], market: Market, worst_usd_per_hour: float, *, spare: bool) -> str:
    """Why a launch does not fit; empty: it does."""
    for cap in caps:
        until = "" if cap.period is Period.HOUR else f" until the {cap.period} ends"
        if not cap.fits(worst_usd_per_hour):
            room = f"leaves no room for a VM at {worst_usd_per_hour:.2f} USD/h{until}"
            return f"{_NOT_LAUNCHED}{cap.sentence} {room}"
        if cap.step >= Rung.SPOT_ONLY and market is Market.ON_DEMAND:
            return f"not launched on demand: {cap.sentence} is nearly used up by what runs{until}"
        if cap.step >= Rung.LEAN and spare:
            return f"no spare replica launched: {cap.sentence} is nearly used up by what runs{until}"
    return ""
