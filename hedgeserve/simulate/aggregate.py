"""What one window came to in numbers, and these numbers over all windows: mean and standard deviation."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgeserve.simulate.outcome import FleetOutcome, LoadOutcome

QUANTILES = tuple(percent / 100 for percent in range(101))
"""The quantiles of the latencies that are kept of each window, for pictures."""


@dataclass(frozen=True, slots=True)
class Stat:
    """A measure over windows: its mean and its standard deviation (of these windows: no ``n - 1``)."""

    mean: float
    sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFigures:
    """What one policy came to in one window, the warm-up left out; None where it was not measured.

    ``cost_vs_on_demand`` is the cost divided by what ``target`` replicas at the cheapest on-demand price cost for
    the whole window; ``cost_vs_omniscient`` divides by the cost of the omniscient policy in the same window.
    ``availability`` is the share of the time with as many ready replicas as the target, ``failed_ratio`` the
    share of requests without an answer. Latency is from a request's arrival to its last token, TTFT to its first.
    """

    window: int
    start_s: float
    cost_usd: float
    cost_vs_on_demand: float | None = None
    cost_vs_omniscient: float | None = None
    availability: float | None = None
    latency_p50_s: float | None = None
    latency_p90_s: float | None = None
    latency_p99_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p90_s: float | None = None
    ttft_p99_s: float | None = None
    failed_ratio: float | None = None
    preemptions: float | None = None
    launches: float | None = None
    on_demand_hours: float | None = None
    latency_quantiles_s: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """One column: its key (as in JSON and :class:`WindowFigures`), its heading, how a value is written."""

    key: str
    heading: str
    write: Callable[[float], str]
    of_requests: bool = False


def _money(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _fine_share(value: float) -> str:
    return f"{100 * value:.2f}%"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _count(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


MEASURES = (
    Measure("cost_usd", "cost, USD", _money),
    Measure("cost_vs_on_demand", "of on-demand", _share),
    Measure("cost_vs_omniscient", "of omniscient", _share),
    Measure("availability", "available", _fine_share),
    Measure("latency_p50_s", "latency P50, s", _seconds, of_requests=True),
    Measure("latency_p90_s", "P90", _seconds, of_requests=True),
    Measure("latency_p99_s", "P99", _seconds, of_requests=True),
    Measure("ttft_p50_s", "TTFT P50, s", _seconds, of_requests=True),
    Measure("ttft_p90_s", "P90", _seconds, of_requests=True),
    Measure("ttft_p99_s", "P99", _seconds, of_requests=True),
    Measure("failed_ratio", "failed", _fine_share, of_requests=True),
    Measure("preemptions", "preempted", _count),
    Measure("launches", "launches", _count),
    Measure("on_demand_hours", "on-demand h", _count),
)
"""Every measure, in the order of the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFigures:
    """One policy over all windows: each measure of :class:`WindowFigures` as a :class:`Stat`, None: not measured.

    A measure that some windows lack (no request was answered there) is over the others.
    """

    policy: str
    cost_usd: Stat
    cost_vs_on_demand: Stat | None = None
    cost_vs_omniscient: Stat | None = None
    availability: Stat | None = None
    latency_p50_s: Stat | None = None
    latency_p90_s: Stat | None = None
    latency_p99_s: Stat | None = None
    ttft_p50_s: Stat | None = None
    ttft_p90_s: Stat | None = None
    ttft_p99_s: Stat | None = None
    failed_ratio: Stat | None = None
    preemptions: Stat | None = None
    launches: Stat | None = None
    on_demand_hours: Stat | None = None
    windows: tuple[WindowFigures, ...] = ()

    def stat(self, measure: Measure) -> Stat | None:
        """The figures of one column."""
        found: Stat | None = getattr(self, measure.key)
        return found


def figures_of(
    outcome: FleetOutcome, *, window: int, start_s: float, on_demand_usd: float | None
) -> WindowFigures:
    """The numbers of one simulated window; ``on_demand_usd`` is what the target costs there on demand alone."""
    return WindowFigures(
        window=window,
        start_s=start_s,
        cost_usd=outcome.cost_usd,
        cost_vs_on_demand=outcome.cost_usd / on_demand_usd if on_demand_usd else None,
        availability=outcome.availability,
        preemptions=float(outcome.preemptions),
        launches=float(outcome.launches),
        on_demand_hours=outcome.on_demand_h,
        notes=outcome.notes,
        **(_of_requests(outcome.load) if outcome.load is not None else {}),
    )


def _of_requests(load: LoadOutcome) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if load.arrived:
        found["failed_ratio"] = sum(load.failed.values()) / load.arrived
    for name, values in (("latency", load.latencies_s), ("ttft", load.ttfts_s)):
        if values:
            for percent, value in zip((50, 90, 99), np.quantile(values, (0.5, 0.9, 0.99)), strict=True):
                found[f"{name}_p{percent}_s"] = float(value)
    if load.latencies_s:
        quantiles = np.quantile(load.latencies_s, QUANTILES)
        found["latency_quantiles_s"] = tuple(float(value) for value in quantiles)
    return found


def over_windows(policy: str, windows: Sequence[WindowFigures]) -> PolicyFigures:
    """The figures of one policy over its windows."""
    stats = {measure.key: _stat(getattr(one, measure.key) for one in windows) for measure in MEASURES}
    return PolicyFigures(policy=policy, windows=tuple(windows), **stats)  # type: ignore[arg-type]


def _stat(values: Iterable[float | None]) -> Stat | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    return Stat(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / len(known)))
