"""How money is counted: periods of UTC, what a VM's seconds were for, what they would have cost on demand. Pure.

What is billed is written down as it happens, and in time added up (:mod:`hedgeserve.store`). What a second was
*for* may be known only later: a boot that never got ready was a failed one. So the ledger keeps what was known
when it was written, and :func:`purpose_of` says what it was for by all that is known now.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from hedgeserve.replica import Market, Offer, Replica

_INSTANT = timedelta(microseconds=1)
_PERIODS_KEPT = 4
_COSTLIEST = 200
COMPARABLE_S = 600.0
"""From then on it is said what was saved."""
_LEAST_FOR_A_FORECAST = timedelta(hours=1)
"""Less than this is the boots of a start, and says nothing of a month."""
DAY = timedelta(days=1)
EARLIER = "earlier replicas"
"""Whose money it was where that is not known any more, but only where, and what for."""


class Period(StrEnum):
    """A span that money is capped in."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Purpose(StrEnum):
    """What a second of a VM was for."""

    SERVING = "serving"
    BOOTING = "booting"
    DRAINING = "draining"
    FAILED_BOOT = "failed_boot"


def begin_of(period: Period, at: datetime) -> datetime:
    """When the hour, day or month (UTC) of this time began."""
    at = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if period is Period.HOUR:
        return at
    return at.replace(hour=0) if period is Period.DAY else at.replace(hour=0, day=1)


def end_of(period: Period, at: datetime) -> datetime:
    """When the hour, day or month (UTC) of this time ends."""
    begin = begin_of(period, at)
    match period:
        case Period.HOUR:
            return begin + timedelta(hours=1)
        case Period.DAY:
            return begin + DAY
        case Period.MONTH:
            return begin_of(Period.MONTH, begin + timedelta(days=32))


def days_of(begin: datetime, end: datetime) -> Iterator[tuple[datetime, float]]:
    """A span cut at each midnight of UTC: the last instant of each part, and its seconds.

    A part that ends at midnight belongs to the day before, so its instant is one microsecond earlier.
    """
    while begin < end:
        midnight = end_of(Period.DAY, begin)
        until = min(midnight, end)
        yield (until - _INSTANT if until == midnight else until), (until - begin).total_seconds()
        begin = until


def purpose_of(written: str, *, ended: bool, served: bool) -> Purpose:
    """What seconds were for that the ledger has as ``written``, of a replica of which this is known now.

    Of one that is gone (``ended``) and never ``served``, all of them went into a boot that failed.
    """
    if ended and not served:
        return Purpose.FAILED_BOOT
    return {"serving": Purpose.SERVING, "draining": Purpose.DRAINING, "terminating": Purpose.DRAINING}.get(
        written, Purpose.BOOTING
    )


def price_now(offer: Offer, offers: Iterable[Offer]) -> float:
    """What a VM of this offer costs now: spot follows its market, anything else costs what it was launched at."""
    if offer.market is not Market.SPOT:
        return offer.usd_per_hour
    same = (offer.zone, offer.instance_type, offer.market)
    now = (one.usd_per_hour for one in offers if (one.zone, one.instance_type, one.market) == same)
    return next(now, offer.usd_per_hour)


def baseline_usd_per_hour(target: int, replicas: Iterable[Replica], offers: Iterable[Offer]) -> float | None:
    """What the target costs an hour on demand alone, at the cheapest such offer; None where none is offered.

    Servers of somebody else's that are ready cost nothing in either world, and do their part of the target.
    """
    external = sum(replica.market is Market.EXTERNAL and replica.alive for replica in replicas)
    needed = max(0, target - external)
    if not needed:
        return 0.0
    cheapest = min((offer.usd_per_hour for offer in offers if offer.market is Market.ON_DEMAND), default=None)
    return None if cheapest is None else needed * cheapest


class Purse:
    """What has been spent in the present periods: sums that are added to, never asked of a disk."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Period, datetime], float] = {}

    def pay(self, at: datetime, usd: float) -> None:
        """So much was spent up to this time, on this day."""
        for period in (Period.DAY, Period.MONTH):
            self.put(period, at, self.spent(period, at) + usd)

    def put(self, period: Period, at: datetime, usd: float) -> None:
        """So much was spent in all in the period of this time."""
        self._sums[period, begin_of(period, at)] = usd
        of_it = sorted(key for key in self._sums if key[0] is period)
        for key in of_it[:-_PERIODS_KEPT]:
            del self._sums[key]

    def spent(self, period: Period, at: datetime) -> float:
        """What was spent in the period of this time."""
        return self._sums.get((period, begin_of(period, at)), 0.0)


@dataclass(frozen=True, slots=True)
class Line:
    """What one replica cost on one day (UTC, ``2026-11-30``) for one purpose."""

    day: str
    replica: str
    zone: str
    market: str
    purpose: Purpose
    seconds: float
    usd: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """What on-demand alone would have cost on one day: ``unpriced_s`` of the ``seconds`` had no such price."""

    day: str
    seconds: float
    usd: float
    unpriced_s: float


def compares(seconds: float) -> bool:
    """Whether on demand alone has been counted for long enough to say what was saved: ten minutes.

    Before, spot and on-demand boot side by side, and a comparison would speak of the start alone.
    """
    return seconds >= COMPARABLE_S


@dataclass(frozen=True, slots=True)
class Account:
    """All that was spent from ``since`` to ``until``, and what it would have been on demand."""

    since: datetime
    until: datetime
    lines: Sequence[Line]
    baseline: Sequence[Baseline]

    @property
    def spent_usd(self) -> float:
        """US dollars that VMs have cost."""
        return sum(line.usd for line in self.lines)

    @property
    def baseline_usd(self) -> float | None:
        """US dollars that the same targets would have cost on demand; None where no such price was known."""
        if all(one.unpriced_s >= one.seconds for one in self.baseline):
            return None if self.lines else 0.0
        return sum(one.usd for one in self.baseline)

    def by(self, key: str) -> list[dict[str, Any]]:
        """Sums by day, zone, market, purpose or replica: days in order, else the dearest first.

        Of replicas at most the 200 dearest.
        """
        usd: dict[str, float] = defaultdict(float)
        seconds: dict[str, float] = defaultdict(float)
        for line in self.lines:
            usd[str(getattr(line, key))] += line.usd
            seconds[str(getattr(line, key))] += line.seconds
        on_demand = self._on_demand_by_day() if key == "day" else {}
        names = sorted({*usd, *on_demand}) if key == "day" else sorted(usd, key=lambda name: (-usd[name], name))
        rows: list[dict[str, Any]] = []
        for name in names[:_COSTLIEST] if key == "replica" else names:
            row: dict[str, Any] = {"name": name, "usd": round(usd[name], 6), "seconds": round(seconds[name], 1)}
            if key == "day":
                one = on_demand.get(name)
                known = one is not None and one.unpriced_s < one.seconds
                row["baseline_on_demand_usd"] = round(one.usd, 6) if one is not None and known else None
            rows.append(row)
        return rows

    def _on_demand_by_day(self) -> dict[str, Baseline]:
        found: dict[str, Baseline] = {}
        for one in self.baseline:
            was = found.get(one.day, Baseline(one.day, 0.0, 0.0, 0.0))
            found[one.day] = Baseline(
                one.day, was.seconds + one.seconds, was.usd + one.usd, was.unpriced_s + one.unpriced_s
            )
        return found

    def document(self) -> dict[str, Any]:
        """It as the admin API tells it."""
        baseline, spent = self.baseline_usd, self.spent_usd
        saved = None if baseline is None else baseline - spent
        return {
            "since": self.since.isoformat(timespec="seconds"),
            "until": self.until.isoformat(timespec="seconds"),
            "spent_usd": round(spent, 6),
            "baseline_on_demand_usd": None if baseline is None else round(baseline, 6),
            "baseline_s": round(sum(one.seconds for one in self.baseline), 1),
            "baseline_unpriced_s": round(sum(one.unpriced_s for one in self.baseline), 1),
            "compares": compares(sum(one.seconds for one in self.baseline)),
            "saved_usd": None if saved is None else round(saved, 6),
            "saved_ratio": None if saved is None or not baseline else round(saved / baseline, 4),
            "by": {key: self.by(key) for key in KEYS},
        }


KEYS = ("day", "zone", "market", "purpose", "replica")
"""What an account can be split by."""


def forecast_month_usd(*, month_usd: float, lately_usd: float, lately: timedelta, now: datetime) -> float | None:
    """What the month (UTC) of ``now`` will have cost if it goes on as ``lately``; None: too little is known."""
    if lately < _LEAST_FOR_A_FORECAST:
        return None
    left = end_of(Period.MONTH, now) - now
    return month_usd + lately_usd * (left / lately)
