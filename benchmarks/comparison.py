"""The forecast against SpotHedge and the omniscient bound: recorded capacity, its two halves, made-up capacity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.markdown import Section, measured, table
from benchmarks.reproduction import NAMES
from benchmarks.trials import (
    CODINGS_HEADINGS,
    DAY_S,
    HEADINGS,
    POLICIES,
    SHORT_HEADINGS,
    Trial,
    codings_rows,
    misses,
    rows,
    short_row,
)
from hedgeserve.simulate import PaperSetting, TraceSet
from hedgeserve.simulate.backtests import Backtest, backtests
from hedgeserve.simulate.scenario import paper_scenario
from hedgeserve.simulate.synth import fit, preset, synthesize

WINDOWS, SEED = 100, 1
EXTRA_SHARE = 0.2
"""Of the windows, for what no criterion asks about."""

MADE_UP_DAYS, MADE_UP_SEEDS, MADE_UP_SHARE = 30, (11, 12, 13), 0.15
NOTICE_S = 120.0

CRITERIA = {
    "a": "notice of 120 s: available 99.9 % of the time and no less than SpotHedge, at most 1.10 × the bound",
    "b": "no notice: no less available than SpotHedge, at least half of its excess over the bound gone",
    "c": "other cold starts and price ratios: no less available than SpotHedge, and cheaper",
}

SUMMARY_HEADINGS = ("criterion", "where", "windows", "verdict")


@dataclass(frozen=True, slots=True)
class Case:
    """A setting to be tried, under its name; the criterion that it is for; empty: none, and fewer windows."""

    name: str
    criterion: str
    setting: PaperSetting


def _cases() -> tuple[Case, ...]:
    base = PaperSetting(notice_s=NOTICE_S)
    found = [Case("notice 120 s", "a", base), Case("no notice", "b", replace(base, notice_s=0.0))]
    for cold_start_s in (180.0, 480.0):
        for notice_s in (NOTICE_S, 0.0):
            setting = replace(base, cold_start_s=cold_start_s, notice_s=notice_s)
            found.append(Case(f"cold start {cold_start_s:g} s, {_notice(notice_s)}", "c", setting))
    for ratio in (2.0, 4.0, 8.0):
        for notice_s in (NOTICE_S, 0.0):
            setting = replace(base, price_ratio=ratio, notice_s=notice_s)
            found.append(Case(f"k = {ratio:g}, {_notice(notice_s)}", "c", setting))
    targets = (Case(f"N_target {target}, notice 120 s", "", replace(base, target=target)) for target in (1, 6, 12))
    return (*found, *targets)


def _notice(notice_s: float) -> str:
    return f"notice {notice_s:g} s" if notice_s else "no notice"


def comparison(records: Mapping[str, TraceSet], jobs: int, windows: int, seed: int) -> Section:
    """Everything about the forecast."""
    section = Section("forecast")
    few = max(2, round(windows * EXTRA_SHARE))
    how = (
        f"{windows} windows of 24 h over each record ({few} where no criterion is tried), seed {seed}; "
        "N_target 3, k = 3, cold start 120 s, N_extra 1, ticks of 30 s, unless said otherwise"
    )
    section.add(measured(section.name, how))
    found = {trace: _trials(record, jobs, windows, few, seed) for trace, record in records.items()}
    made_up = _made_up(records["aws-3"], jobs, max(2, round(windows * MADE_UP_SHARE)), seed)
    section.add(table(SUMMARY_HEADINGS, summary(records, found, made_up), words=2))
    for trace, trials in found.items():
        cells = [row for trial in trials for row in rows(trial, NAMES[trace], section)]
        section.add(f"### {NAMES[trace]}, the whole record", table(HEADINGS, cells, words=2))
    section.add(
        "### The two halves of the time",
        "Most of the windows that the forecast's parameters were chosen with lie in the first half, not all of "
        "them. Windows that reach into both halves are left out here.",
    )
    for trace, trials in found.items():
        cells = [
            short_row(half, NAMES[trace], part, section)
            for trial in trials
            for part, half in halves(trial, records[trace].duration_s).items()
        ]
        section.add(f"{NAMES[trace]}:", table(SHORT_HEADINGS, cells, words=2))
    cells = [row for place, trials in made_up.items() for trial in trials for row in rows(trial, place, section)]
    section.add(
        "### Capacity that nobody tuned on",
        f"Made up by `hedgeserve traces synth`: {MADE_UP_DAYS} days for each of the seeds "
        f"{', '.join(map(str, MADE_UP_SEEDS))}, {made_up_windows(made_up)} windows in all. The criteria are "
        "those of the recorded traces.",
        table(("trace", *HEADINGS), _placed(cells, made_up), words=3),
        "### The codings of SpotHedge",
        table(
            CODINGS_HEADINGS,
            [
                row
                for place, trials in ({NAMES[trace]: found[trace] for trace in found} | made_up).items()
                for trial in trials
                for row in codings_rows(trial, place)
            ],
            words=3,
        ),
    )
    return section


def _trials(record: TraceSet, jobs: int, windows: int, few: int, seed: int) -> list[Trial]:
    found = []
    for wanted, count in ((True, windows), (False, few)):
        cases = [case for case in _cases() if bool(case.criterion) is wanted]
        found += trials(record, cases, jobs, count, seed)
    return found


def trials(record: TraceSet, cases: Sequence[Case], jobs: int, windows: int, seed: int) -> list[Trial]:
    """Every case on this record, all policies in the same windows."""
    scenarios = [paper_scenario(record, case.setting) for case in cases]
    results = backtests(scenarios, policies=POLICIES, windows=windows, seed=seed, jobs=jobs)
    return [_trial(case, result, record.name) for case, result in zip(cases, results, strict=True)]


def _trial(case: Case, result: Backtest, record: str) -> Trial:
    figures = {one.policy: one.windows for one in result.policies}
    # Windows that begin on the same day see mostly the same hours.
    groups = tuple((record, int(start_s // DAY_S)) for start_s in result.starts_s)
    return Trial(case.name, case.criterion, figures, groups)


def halves(trial: Trial, record_s: float) -> dict[str, Trial]:
    """The windows that lie wholly in each half of the time; a half without any is left out."""
    found = {
        "first half": trial.where(lambda one: one.start_s + DAY_S <= record_s / 2),
        "second half": trial.where(lambda one: one.start_s >= record_s / 2),
    }
    return {part: half for part, half in found.items() if half.windows}


def _made_up(record: TraceSet, jobs: int, windows: int, seed: int) -> dict[str, list[Trial]]:
    """``calm``, ``volatile`` and one like AWS 3, by name; the seeds' windows put together."""
    models = {"`calm`": preset("calm"), "`volatile`": preset("volatile"), "like AWS 3": fit(record)}
    cases = [case for case in _cases() if case.criterion in ("a", "b")]
    found: dict[str, list[Trial]] = {}
    for place, model in models.items():
        by_seed = []
        for made_with in MADE_UP_SEEDS:
            made = synthesize(model, MADE_UP_DAYS * DAY_S, made_with)
            made = TraceSet(f"{made.name}-{made_with}", made.zones, made.notes)
            by_seed.append(trials(made, cases, jobs, windows, seed))
        found[place] = [together(parts) for parts in zip(*by_seed, strict=True)]
    return found


def together(parts: Sequence[Trial]) -> Trial:
    """The windows of several records, for one setting."""
    first = parts[0]
    figures = {name: tuple(one for part in parts for one in part.figures[name]) for name in first.figures}
    return Trial(first.name, first.criterion, figures, tuple(group for part in parts for group in part.groups))


def made_up_windows(made_up: Mapping[str, Sequence[Trial]]) -> int:
    """How many windows each made-up trace has."""
    return next(iter(made_up.values()))[0].windows


def _placed(cells: Sequence[list[str]], made_up: Mapping[str, Sequence[Trial]]) -> list[list[str]]:
    """The rows with their trace in front, told once."""
    placed, index = [], 0
    for place, tried in made_up.items():
        for number in range(3 * len(tried)):
            placed.append([place if number == 0 else "", *cells[index]])
            index += 1
    return placed


def summary(
    records: Mapping[str, TraceSet], found: Mapping[str, Sequence[Trial]], made_up: Mapping[str, Sequence[Trial]]
) -> list[list[str]]:
    """Each criterion in each place: how many of its settings pass, and which do not."""
    places: dict[str, list[Trial]] = {}
    for trace, tried in found.items():
        places[NAMES[trace]] = list(tried)
        for trial in tried:
            for part, half in halves(trial, records[trace].duration_s).items():
                places.setdefault(f"{NAMES[trace]}, {part}", []).append(half)
    places |= {place: list(tried) for place, tried in made_up.items()}
    lines = []
    for letter, text in CRITERIA.items():
        told = f"({letter}) {text}"
        for place, tried in places.items():
            asked = [trial for trial in tried if trial.criterion == letter]
            if not asked:
                continue
            failed = {trial.name: misses(trial) for trial in asked if misses(trial)}
            cell = f"{len(asked) - len(failed)} of {len(asked)} pass"
            if failed:
                cell += "; **FAIL**: " + "; ".join(f"{name} ({', '.join(why)})" for name, why in failed.items())
            lines.append([told, place, str(asked[0].windows), cell])
            told = ""
    return lines
