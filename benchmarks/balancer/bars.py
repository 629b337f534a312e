"""The bars, and how what was measured compares with each. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from benchmarks.balancer.measured import Measurements
from benchmarks.balancer.scenarios import DIRECT, NGINX, OURS, SGLANG, SKYSERVE, VANISH, VLLM
from benchmarks.markdown import FAIL, PASS

NOT_MEASURED = "not measured"


class Kind(Enum):
    """How a figure of ours is compared."""

    AT_LEAST = "at least so many times the peer's"
    AT_MOST = "at most so many times the peer's"
    ADDED_AT_MOST = "at most so many times the peer's, what it takes without either taken off both"
    BELOW = "a figure by itself, the worst round's"
    NO_MORE = "a figure by itself, the median"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a figure of a scenario, and what it must come to."""

    scenario: str
    what: str
    figure: str
    unit: str
    kind: Kind
    factor: float
    peer: str = ""

    @property
    def required(self) -> str:
        """The bar as a cell."""
        factor = f"{self.factor:g}"
        match self.kind:
            case Kind.AT_LEAST:
                return f"≥ {factor} × {self.peer}"
            case Kind.AT_MOST | Kind.ADDED_AT_MOST:
                return f"≤ {factor} × {self.peer}"
            case Kind.BELOW:
                return f"< {factor} {self.unit}" if self.factor else "none"
            case Kind.NO_MORE:
                return f"≤ {factor} {self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, what was measured, and how it came out."""

    bar: Bar
    measured: str
    verdict: str


def _rates(scenario: str, what: str, unit: str, factors: Sequence[tuple[str, float]]) -> tuple[Bar, ...]:
    return tuple(
        Bar(scenario, what, "work_per_cpu_s", unit, Kind.AT_LEAST, factor, peer) for peer, factor in factors
    )


BARS: Sequence[Bar] = (
    *_rates(
        "json32",
        "JSON, 32 connections",
        "requests/CPU s",
        ((NGINX, 0.45), (VLLM, 2.0), (SGLANG, 2.5), (SKYSERVE, 40.0)),
    ),
    *_rates(
        "paced512",
        "SSE, 512 streams at 20 ms",
        "events/CPU s",
        ((NGINX, 0.85), (VLLM, 1.05), (SGLANG, 1.05), (SKYSERVE, 4.5)),
    ),
    Bar(
        "burst1500",
        "1,500 streams opened at once, first byte P99",
        "first_byte_p99_ms",
        "ms",
        Kind.AT_MOST,
        1.0,
        NGINX,
    ),
    Bar("latency50", "latency added at 50 requests/s, P50", "p50_ms", "ms", Kind.ADDED_AT_MOST, 1.6, NGINX),
    Bar("memory1000", "memory with 1,000 open streams", "memory_mib", "MiB", Kind.NO_MORE, 70.0),
    Bar(VANISH, "a replica with 500 streams vanishes: streams not continued exactly", "lost", "", Kind.BELOW, 0.0),
    Bar(VANISH, "meanwhile, other streams' gap between chunks, P99", "others_gap_p99_ms", "ms", Kind.BELOW, 100.0),
)


def middle(measurements: Measurements, target: str, scenario: str, figure: str) -> float | None:
    """The median over rounds; None where there is none."""
    values = [one.figures[figure] for one in measurements.of(target, scenario) if figure in one.figures]
    return median(values) if values else None


def worst(measurements: Measurements, target: str, scenario: str, figure: str) -> float | None:
    """The largest over rounds; None where there is none."""
    values = [one.figures[figure] for one in measurements.of(target, scenario) if figure in one.figures]
    return max(values, default=None)


def judge(bar: Bar, measurements: Measurements) -> Verdict:
    """How a bar came out. Answers of ours that are wrong miss every bar of their scenario."""
    take = worst if bar.kind is Kind.BELOW else middle
    ours = take(measurements, OURS, bar.scenario, bar.figure)
    if ours is None:
        return Verdict(bar, _why(measurements, OURS, bar.scenario), NOT_MEASURED)
    wrong = [one.faults for one in measurements.of(OURS, bar.scenario) if one.faults]
    if bar.kind in (Kind.BELOW, Kind.NO_MORE):
        measured = f"{ours:.3g} {bar.unit}".rstrip()
        below = ours < bar.factor if bar.factor else ours == 0
        met = ours <= bar.factor if bar.kind is Kind.NO_MORE else below
        return _verdict(bar, measured, met, wrong)
    theirs = middle(measurements, bar.peer, bar.scenario, bar.figure)
    if theirs is None:
        return Verdict(bar, _why(measurements, bar.peer, bar.scenario), NOT_MEASURED)
    if bar.kind is Kind.ADDED_AT_MOST:
        without = middle(measurements, DIRECT, bar.scenario, bar.figure)
        if without is None:
            return Verdict(bar, _why(measurements, DIRECT, bar.scenario), NOT_MEASURED)
        ours, theirs = ours - without, theirs - without
    if theirs <= 0:
        return Verdict(
            bar, f"{bar.peer} comes to {theirs:.3g} {bar.unit}, which nothing compares with", NOT_MEASURED
        )
    ratio = ours / theirs
    met = ratio >= bar.factor if bar.kind is Kind.AT_LEAST else ratio <= bar.factor
    measured = f"{ratio:.3g} × ({_number(ours)} against {_number(theirs)} {bar.unit})"
    return _verdict(bar, measured, met, wrong)


def _verdict(bar: Bar, measured: str, met: bool, wrong: Sequence[str]) -> Verdict:
    if wrong:
        return Verdict(bar, measured, f"{FAIL}: {wrong[0]}")
    return Verdict(bar, measured, PASS if met else FAIL)


def _why(measurements: Measurements, target: str, scenario: str) -> str:
    return f"{target}: {measurements.why_missing(target, scenario)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
