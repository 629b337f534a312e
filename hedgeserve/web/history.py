"""What the service was like over the last week, in three finenesses, small enough to be kept in memory for ever.

Readings come every second or so and are summed in slots of 10 s, of a minute and of five minutes. A slot holds
sums, not averages, and the counts of a histogram, not quantiles: so slots can be added up without loss, and a
quantile over a day is one over all of its requests. Pure: the time is in the readings.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

TIERS: Mapping[int, int] = {10: 2160, 60: 2880, 300: 2016}
"""Slots kept, by their width in seconds: six hours, two days, a week."""

_LONGEST_STEP_S = 15.0
"""Readings further apart than this leave a gap: nothing is known of the time between."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The service at one moment (Unix seconds); those in the last group only ever grow."""

    at_s: float
    ready: int
    target: int
    on_demand: int
    queued: int
    in_flight: int
    usd_per_hour: float
    on_demand_usd_per_hour: float

    requests: int = 0
    failed: int = 0
    tokens: int = 0
    first_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """What was seen from ``start_s`` (Unix seconds) on. Names that end in ``_s`` are something times seconds."""

    start_s: int
    seconds: float = 0.0
    ready_s: float = 0.0
    target_s: float = 0.0
    on_demand_s: float = 0.0
    queued_s: float = 0.0
    in_flight_s: float = 0.0
    short_s: float = 0.0
    """Seconds with fewer ready than the target."""
    fewest_ready: int = 0
    usd: float = 0.0
    on_demand_usd: float = 0.0
    """What the target would have cost on demand."""
    requests: int = 0
    failed: int = 0
    tokens: int = 0
    first_tokens: tuple[int, ...] = ()

    def plus(self, other: "Slot") -> "Slot":
        """Both together, from this one's start."""
        if not self.seconds:
            return replace(other, start_s=self.start_s)
        if not other.seconds:
            return self
        summed = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return Slot(
            self.start_s,
            fewest_ready=min(self.fewest_ready, other.fewest_ready),
            first_tokens=_added(self.first_tokens, other.first_tokens),
            **summed,
        )

    def as_row(self) -> list[Any]:
        """As JSON for the store; zeros at a histogram's end are left out."""
        counts = list(self.first_tokens)
        while counts and not counts[-1]:
            counts.pop()
        values = [getattr(self, name) for name in _SUMS]
        return [self.fewest_ready, counts, *(round(v, 6) if isinstance(v, float) else v for v in values)]

    @classmethod
    def of_row(cls, start_s: int, row: Sequence[Any]) -> "Slot":
        """What :meth:`as_row` wrote.

        Raises:
            ValueError: It is nothing of the kind, or of another version.
        """
        try:
            fewest, counts, *sums = row
            named: dict[str, Any] = dict(zip(_SUMS, map(float, sums), strict=True))
            named |= {name: int(named[name]) for name in ("requests", "failed", "tokens")}
            return cls(start_s, fewest_ready=int(fewest), first_tokens=tuple(map(int, counts)), **named)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a slot of history: {error}") from None


_SUMS = tuple(
    field.name for field in fields(Slot) if field.name not in ("start_s", "fewest_ready", "first_tokens")
)


class History:
    """The slots. ``bounds_s`` are the upper bounds of the first-token histogram; the last bucket has none."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = tuple(bounds_s)
        self._kept: dict[int, deque[Slot]] = {width_s: deque(maxlen=kept) for width_s, kept in TIERS.items()}
        self._open: dict[int, Slot] = {}
        self._last: Reading | None = None

    def restore(self, width_s: int, slots: Iterable[Slot]) -> None:
        """Take over the slots of an earlier run, oldest first; to be called before the first reading."""
        self._kept[width_s].extend(slots)

    def read(self, now: Reading) -> list[tuple[int, Slot]]:
        """Add a reading; returns the slots that came to their end, each with its width."""
        last, self._last = self._last, now
        if last is None:
            self._reopen(now.at_s)
            return []
        step_s = now.at_s - last.at_s
        ended = [ended for width_s in TIERS for ended in self._close(width_s, now.at_s)]
        if 0 < step_s <= _LONGEST_STEP_S:
            seen = _between(last, now, step_s)
            for width_s in TIERS:
                opened = self._open.get(width_s) or Slot(_start(now.at_s, width_s))
                self._open[width_s] = opened.plus(seen)
        return ended

    def _close(self, width_s: int, now_s: float) -> list[tuple[int, Slot]]:
        opened = self._open.get(width_s)
        if opened is None or opened.start_s == _start(now_s, width_s):
            return []
        del self._open[width_s]
        self._kept[width_s].append(opened)
        return [(width_s, opened)]

    def _reopen(self, now_s: float) -> None:
        """Go on with the wide slots that an earlier run had begun: what was in them is in the narrow ones."""
        widths = list(TIERS)
        for narrow_s, wide_s in pairwise(widths):
            start_s = _start(now_s, wide_s)
            begun = Slot(start_s)
            for slot in self._kept[narrow_s]:
                if slot.start_s >= start_s:
                    begun = begun.plus(slot)
            if (opened := self._open.get(narrow_s)) is not None and opened.start_s >= start_s:
                begun = begun.plus(opened)
            if begun.seconds:
                self._open[wide_s] = begun

    def view(self, since_s: float, now_s: float, *, points: int) -> dict[str, Any]:
        """The time since then in at most about so many points: one list for each figure, JSON-able.

        Rates are a second's; a figure that is not known is None. ``total`` is all of it together.
        """
        span_s = max(0.0, now_s - since_s)
        width_s = next((w for w, kept in TIERS.items() if span_s <= w * kept and span_s / w <= points), max(TIERS))
        slots = [slot for slot in self._kept[width_s] if slot.start_s + width_s > since_s]
        if (opened := self._open.get(width_s)) is not None:
            slots.append(opened)
        total = Slot(int(since_s))
        for slot in slots:
            total = total.plus(slot)
        figures = [self._figures(slot) for slot in slots]
        columns = {name: [figure[name] for figure in figures] for name in self._figures(total)}
        return {
            "width_s": width_s,
            "at": [slot.start_s for slot in slots],
            **columns,
            "total": {
                "seconds": round(total.seconds, 1),
                "short_s": round(total.short_s, 1),
                "requests": total.requests,
                "failed": total.failed,
                "tokens": total.tokens,
                "usd": round(total.usd, 6),
                "on_demand_usd": round(total.on_demand_usd, 6),
                "ttft_p50_s": self._quantile(total.first_tokens, 0.5),
                "ttft_p99_s": self._quantile(total.first_tokens, 0.99),
            },
        }

    def _figures(self, slot: Slot) -> dict[str, Any]:
        seconds = slot.seconds or 1.0
        return {
            "ready": round(slot.ready_s / seconds, 3),
            "fewest_ready": slot.fewest_ready,
            "target": round(slot.target_s / seconds, 3),
            "on_demand": round(slot.on_demand_s / seconds, 3),
            "queued": round(slot.queued_s / seconds, 3),
            "in_flight": round(slot.in_flight_s / seconds, 3),
            "requests_per_s": round(slot.requests / seconds, 4),
            "failed_per_s": round(slot.failed / seconds, 4),
            "tokens_per_s": round(slot.tokens / seconds, 2),
            "usd_per_hour": round(slot.usd * 3600 / seconds, 4),
            "on_demand_usd_per_hour": round(slot.on_demand_usd * 3600 / seconds, 4),
            "ttft_p50_s": self._quantile(slot.first_tokens, 0.5),
            "ttft_p99_s": self._quantile(slot.first_tokens, 0.99),
        }

    def _quantile(self, counts: Sequence[int], share: float) -> float | None:
        """Between the bounds of the bucket that it falls into; beyond the last bound, that bound."""
        wanted, below = sum(counts) * share, 0
        for index, count in enumerate(counts):
            if count and below + count >= wanted:
                if index >= len(self._bounds_s):
                    return self._bounds_s[-1]
                low = self._bounds_s[index - 1] if index else 0.0
                return round(low + (self._bounds_s[index] - low) * (wanted - below) / count, 4)
            below += count
        return None


def _start(at_s: float, width_s: int) -> int:
    return int(at_s // width_s) * width_s


def _between(last: Reading, now: Reading, step_s: float) -> Slot:
    """What was between two readings: as the first one was, and what was counted since."""
    return Slot(
        int(now.at_s),
        seconds=step_s,
        ready_s=last.ready * step_s,
        target_s=last.target * step_s,
        on_demand_s=last.on_demand * step_s,
        queued_s=last.queued * step_s,
        in_flight_s=last.in_flight * step_s,
        short_s=step_s if last.ready < last.target else 0.0,
        fewest_ready=last.ready,
        usd=last.usd_per_hour * step_s / 3600,
        on_demand_usd=last.on_demand_usd_per_hour * step_s / 3600,
        requests=max(0, now.requests - last.requests),
        failed=max(0, now.failed - last.failed),
        tokens=max(0, now.tokens - last.tokens),
        first_tokens=tuple(max(0, a - b) for a, b in zip(now.first_tokens, last.first_tokens, strict=False)),
    )


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    short, long = sorted((one, other), key=len)
    return tuple(a + b for a, b in zip(short, long, strict=False)) + long[len(short) :]
