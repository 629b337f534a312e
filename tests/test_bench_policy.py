"""The benchmark's parts on made-up figures, and the page that it writes."""

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import published, reproduction, speed
from benchmarks.comparison import CRITERIA, SUMMARY_HEADINGS, Case, halves, summary, together, trials
from benchmarks.markdown import FAIL, PASS, PageError, Section, put, table
from benchmarks.paired import difference
from benchmarks.policy import PAGE, SECTIONS, main
from benchmarks.trials import (
    BOUND,
    CODINGS,
    CODINGS_HEADINGS,
    DAY_S,
    HEADINGS,
    OURS,
    SHORT_HEADINGS,
    Trial,
    codings_rows,
    misses,
    rows,
    short_row,
)
from hedgeserve.replica import ZoneId
from hedgeserve.simulate import PaperSetting, TraceSet, ZoneTrace
from hedgeserve.simulate.aggregate import WindowFigures
from hedgeserve.simulate.scenario import paper_scenario

HOUR = 3600.0


def window(number: int, usd: float, availability: float) -> WindowFigures:
    return WindowFigures(
        window=number,
        start_s=number * DAY_S,
        cost_usd=usd,
        cost_vs_on_demand=usd / 216,
        availability=availability,
        preemptions=1.0,
        launches=2.0,
        on_demand_hours=3.0,
    )


def trial(criterion: str, **policies: tuple[float, float]) -> Trial:
    """Four windows, a day each; of every policy (USD, availability), those not named like the artifact's."""
    told = {name: policies.get(name.replace("-", "_"), (100.0, 0.99)) for name in CODINGS}
    told |= {OURS: policies[OURS], BOUND: (60.0, 1.0)}
    figures = {name: tuple(window(number, *figure) for number in range(4)) for name, figure in told.items()}
    return Trial("a setting", criterion, figures, tuple(range(4)))


def record(days: int = 3) -> TraceSet:
    dice = np.random.default_rng(3)
    zones = ("aws/us-east-1/us-east-1a", "aws/us-west-2/us-west-2a")
    counts = [np.repeat(dice.integers(0, 5, days * 24), 12).astype(np.int64) for _ in zones]
    traces = tuple(ZoneTrace(ZoneId(zone), 300.0, each) for zone, each in zip(zones, counts, strict=True))
    return TraceSet("made-up", traces)


# Differences


def test_windows_of_one_day_count_once_for_the_error() -> None:
    """Each window seen twice tells no more than each seen once."""
    once = difference([1.0, 3.0, 5.0], [0.0, 0.0, 0.0], ["mon", "tue", "wed"])
    twice = difference([1.0, 1.0, 3.0, 3.0, 5.0, 5.0], [0.0] * 6, ["mon", "mon", "tue", "tue", "wed", "wed"])
    assert (once.mean, once.error) == (3.0, pytest.approx(2 / math.sqrt(3)))
    assert (twice.mean, twice.error) == (pytest.approx(once.mean), pytest.approx(once.error))
    assert math.isnan(difference([1.0, 2.0], [0.0, 0.0], ["mon", "mon"]).error)


# Verdicts


def test_the_better_coding_is_the_most_available_and_of_equals_the_cheapest() -> None:
    """A hundredth of a point is no difference."""
    assert trial("b", forecast=(70.0, 1.0), spothedge=(120.0, 0.995)).rival() == "spothedge"
    assert trial("b", forecast=(70.0, 1.0), spothedge=(90.0, 0.98995)).rival() == "spothedge"
    assert trial("b", forecast=(70.0, 1.0), spothedge=(120.0, 0.99005)).rival() == "spothedge-artifact"


@pytest.mark.parametrize(
    ("criterion", "ours", "says"),
    [
        ("a", (65.0, 0.9995), []),
        ("a", (67.0, 0.9995), ["1.117 × bound"]),
        ("a", (65.0, 0.998), ["availability 99.800 %"]),
        ("b", (80.0, 0.99), []),
        ("b", (81.0, 0.98), ["availability -1.000 points", "48 % of the excess gone"]),
        ("c", (99.0, 0.99), []),
        ("c", (101.0, 0.99), ["it costs more"]),
        ("", (500.0, 0.1), []),
    ],
)
def test_a_criterion_says_what_it_misses(criterion: str, ours: tuple[float, float], says: list[str]) -> None:
    """With the figure."""
    assert misses(trial(criterion, forecast=ours)) == says


def test_rows_have_every_column_and_a_failure_is_kept() -> None:
    """The forecast's difference to SpotHedge stands beside each figure."""
    section = Section("forecast")
    bad = trial("b", forecast=(90.0, 0.995))
    cells = rows(bad, "AWS 1", section)
    assert [len(cell) for cell in cells] == [len(HEADINGS)] * 3
    assert cells[1][2:6] == ["99.500 (+0.500 ± 0.000)", "41.67 (-4.63 ± 0.00)", "1.500 (-0.167 ± 0.000)", "25 %"]
    assert cells[1][-1] == f"(b) {FAIL}: 25 % of the excess gone"
    assert (section.tried, section.failures) == (1, ["(b) AWS 1, a setting: 25 % of the excess gone"])
    assert len(short_row(bad, "AWS 1", "first half", section)) == len(SHORT_HEADINGS)
    assert {len(cell) for cell in codings_rows(bad, "AWS 1")} == {len(CODINGS_HEADINGS)}


def test_halves_hold_whole_windows_and_the_summary_names_failures() -> None:
    """Windows begin at days 0 to 3 of a record of four and a half days: two fit into each half at most."""
    one = trial("b", forecast=(90.0, 0.995))
    parts = halves(one, 4.5 * DAY_S)
    assert {part: [each.start_s / DAY_S for each in half.figures[OURS]] for part, half in parts.items()} == {
        "first half": [0.0, 1.0],
        "second half": [3.0],
    }
    assert together([one, one]).windows == 8
    lines = summary({"aws-1": record(4)}, {"aws-1": [one]}, {"`calm`": [trial("b", forecast=(70.0, 1.0))]})
    assert lines[0][:3] == [f"(b) {CRITERIA['b']}", "AWS 1", "4"]
    assert "0 of 1 pass" in lines[0][3]
    assert FAIL in lines[0][3]
    assert lines[-1][1:] == ["`calm`", "4", "1 of 1 pass"]


def test_what_is_published_must_come_out() -> None:
    """Within so many points; Even Spread within two standard errors."""
    section = Section("reproduction")
    near = published.Published("aws-1", "round-robin", 0, 90.0, 0.0, 30.0, 0.0)
    windows = tuple(window(number, 0.31 * 216, 0.902) for number in range(4))
    assert reproduction.policy_row(near, windows, section)[-1] == PASS
    far = published.Published("aws-1", "round-robin", 0, 91.0, 0.0, 29.0, 0.0)
    assert reproduction.policy_row(far, windows, section)[-1].startswith(f"{FAIL}: availability -0.80")
    wide = published.Published("aws-1", "even-spread", 0, 91.0, 1.0, 29.0, 3.0)
    assert reproduction.policy_row(wide, windows, section)[-1] == PASS
    assert len(section.failures) == 1


# Measuring


def test_all_policies_see_the_same_windows() -> None:
    """And the simulator fills every figure that a row needs."""
    case = Case("small", "a", PaperSetting(notice_s=120.0, window_s=6 * HOUR))
    (tried,) = trials(record(), [case], jobs=1, windows=3, seed=1)
    starts = {tuple(one.start_s for one in windows) for windows in tried.figures.values()}
    assert len(starts) == 1
    assert tried.of_bound(OURS) >= 1.0 or tried.mean(OURS, "availability") < 1.0
    assert len(rows(tried, "here", Section("forecast"))) == 3


def test_a_run_that_takes_too_long_is_stopped_and_says_when() -> None:
    """With no time at all it ends at the first tick."""
    scenario = paper_scenario(record(), PaperSetting(window_s=6 * HOUR))
    assert "stopped on day 0.0" in speed.bounded(scenario, "spothedge", -1.0).note
    assert speed.bounded(scenario, "spothedge", 60.0).note == ""
    assert "function calls" in speed.profile(lambda: speed.bounded(scenario, "spothedge", 60.0))


# The page


def test_only_what_stands_between_the_marks_is_written() -> None:
    """A page without them is left alone."""
    page = "before\n<!-- begin x -->\nold\n<!-- end x -->\nafter\n"
    assert put(page, "x", "new") == "before\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nafter\n"
    assert put(put(page, "x", r"\1"), "x", "new") == put(page, "x", "new")
    with pytest.raises(PageError, match="begin y"):
        put(page, "y", "new")


def test_the_page_has_every_table() -> None:
    """By its header, as the generator makes it today."""
    page = PAGE.read_text()
    for headings, words in (
        (reproduction.POLICY_HEADINGS, 2),
        (reproduction.VARIED_HEADINGS, 2),
        (reproduction.BOUND_HEADINGS, 2),
        (SUMMARY_HEADINGS, 2),
        (HEADINGS, 2),
        (SHORT_HEADINGS, 2),
        (("trace", *HEADINGS), 3),
        (CODINGS_HEADINGS, 3),
        (speed.HEADINGS, 2),
    ):
        assert f"{table(headings, [], words=words)}\n|" in page, headings
    for name in SECTIONS:
        assert f"<!-- begin {name} -->" in page


def test_without_the_data_it_says_where_to_get_it(tmp_path: Path) -> None:
    """And changes nothing."""
    before = PAGE.read_text()
    result = CliRunner().invoke(main, ["--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "hedgeserve traces pull aws-1" in result.output
    assert PAGE.read_text() == before
