"""The tables: every bar with its verdict, and every figure that was measured. Pure."""

from collections.abc import Sequence

from benchmarks.balancer.bars import NOT_MEASURED, Verdict, middle, worst
from benchmarks.balancer.measured import Measurements
from benchmarks.balancer.scenarios import OURS, SCENARIOS, VANISH, Scenario
from benchmarks.markdown import PASS, table

HEADINGS = ("bar", "measured", "required", "verdict")
_STREAMED = ("events/CPU s", "CPU µs/event", "first byte P50 ms", "first byte P99 ms", "gap P99 ms")
_WHOLE = ("requests/CPU s", "CPU µs/request", "requests/s", "P50 ms", "P99 ms")
_STREAMED_FIGURES = ("work_per_cpu_s", "cpu_us_each", "first_byte_p50_ms", "first_byte_p99_ms", "gap_p99_ms")
_WHOLE_FIGURES = ("work_per_cpu_s", "cpu_us_each", "work_per_s", "p50_ms", "p99_ms")


def verdicts(found: Sequence[Verdict]) -> str:
    """The table of bars."""
    return table(HEADINGS, [(one.bar.what, one.measured, one.bar.required, one.verdict) for one in found], words=3)


def passed(found: Sequence[Verdict], measurements: Measurements, *, asked: Sequence[str]) -> bool:
    """Whether no bar was missed, and nothing is lacking of ours or of a peer that was asked for."""
    if any(target == OURS for target, _ in measurements.missing):
        return False
    for one in found:
        if one.verdict == NOT_MEASURED:
            if one.bar.peer in asked or not one.bar.peer:
                return False
        elif one.verdict != PASS:
            return False
    return True


def figures(measurements: Measurements, targets: Sequence[str]) -> str:
    """A table for each scenario, medians over the rounds, and what was wrong with answers."""
    blocks = []
    for scenario in SCENARIOS:
        rows = [row for target in targets if (row := _row(measurements, target, scenario))]
        if rows:
            blocks += [f"**{scenario.title}** (`{scenario.name}`)", table(("target", *_headings(scenario)), rows)]
    if measurements.of(OURS, VANISH):
        blocks += [f"**A replica with 500 streams vanishes silently** (`{VANISH}`)", _vanished(measurements)]
    if remarks := _remarks(measurements):
        blocks.append("\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join(blocks)


def _headings(scenario: Scenario) -> tuple[str, ...]:
    headings = _STREAMED if "--stream" in scenario.load else _WHOLE
    return (*headings, "MiB") if scenario.memory_at_s is not None else headings


def _row(measurements: Measurements, target: str, scenario: Scenario) -> list[str]:
    if not measurements.of(target, scenario.name):
        why = measurements.missing.get((target, scenario.name), "")
        return [target, f"{NOT_MEASURED}: {why}", *[""] * (len(_headings(scenario)) - 1)] if why else []
    names: Sequence[str] = _STREAMED_FIGURES if "--stream" in scenario.load else _WHOLE_FIGURES
    if scenario.memory_at_s is not None:
        names = (*names, "memory_mib")
    return [target, *(_cell(middle(measurements, target, scenario.name, name)) for name in names)]


def _vanished(measurements: Measurements) -> str:
    def cell(figure: str) -> str:
        return _cell(worst(measurements, OURS, VANISH, figure))

    least = min(one.figures["continued"] for one in measurements.of(OURS, VANISH))
    return table(
        (
            "target",
            "continued exactly, of 500",
            "all taken up after s",
            "others' gap P99 ms",
            "largest gap ms",
            "CPU s",
        ),
        [
            [
                OURS,
                f"{least:.0f}",
                cell("taken_up_s"),
                cell("others_gap_p99_ms"),
                cell("others_gap_most_ms"),
                cell("cpu_s"),
            ]
        ],
    )


def _remarks(measurements: Measurements) -> list[str]:
    found = []
    for (target, scenario), rounds in measurements.rounds.items():
        wrong = [one.faults for one in rounds if one.faults]
        if wrong:
            found.append(f"{target}, `{scenario}`: {wrong[0]}")
        if any(one.crowded for one in rounds):
            found.append(f"{target}, `{scenario}`: kept waiting for its core more than a quarter of the time")
    return found


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
