"""The report: one page that stands alone, true to the figures, and refused early when it cannot be drawn."""

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hedgeserve.errors import BacktestError
from hedgeserve.replica import Market, ZoneId
from hedgeserve.simulate import PaperSetting, PoissonRequests, backtest, write_report
from hedgeserve.simulate.backtests import Backtest
from hedgeserve.simulate.outcome import Decision, FleetOutcome, Refusal
from hedgeserve.simulate.policies import OMNISCIENT
from hedgeserve.simulate.replay import bound, clock, focus, replay, rival, story
from hedgeserve.simulate.report import check_report, report_html
from tests.test_sim_backtest import record

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

_POLICIES = ("on-demand", "round-robin", "spothedge", "omniscient")
_VOID = {"meta", "br", "img", "link", "hr", "input"}


@pytest.fixture(scope="module")
def result() -> Backtest:
    return backtest(
        record(), PaperSetting(window_s=21600.0), policies=_POLICIES, windows=3, requests=PoissonRequests(0.1)
    )


@pytest.fixture(scope="module")
def page(result: Backtest) -> str:
    return report_html(result)


class _Checker(HTMLParser):
    """Every element that is opened is closed, in order; what the page would load, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in _VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data") and value and not value.startswith("#"):
                self.loads.append(value)


def test_the_page_stands_alone(page: str) -> None:
    """Well-formed, no scripts, nothing to load, no id twice."""
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.loads == []
    assert len(checker.ids) == len(set(checker.ids))
    assert not checker.seen & {"script", "link", "iframe", "img"}
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_reads_on_a_phone_and_in_the_dark(page: str) -> None:
    """A viewport, a dark scheme, and no colour in a picture that the page does not set."""
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
        left = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg))
        assert left == set()


def test_the_page_shows_every_policy_with_its_figures(result: Backtest, page: str) -> None:
    """The same numbers as the table of the command line."""
    for figures in result.policies:
        assert f"<td>{figures.policy}</td>" in page
        assert f"<td>{figures.cost_usd.mean:,.2f} <small>" in page


def test_the_page_shows_windows_pictures_and_decisions(page: str) -> None:
    """Points, latencies, and for two windows the fleet and the money."""
    names = set(re.findall(r"<figcaption id=([\w-]+)-says>", page))
    assert {"points", "latency", "worst-fleet", "worst-cost"} <= names
    assert all(f'aria-labelledby="{name}-says"' in page for name in names)
    assert "Worst window of spothedge" in page
    assert "What it decided, and why" in page
    assert "spot replicas run or start" in page
    assert "The past is not the future" in page


def test_the_report_is_the_same_each_time(result: Backtest, page: str) -> None:
    """No date, no random id: two reports can be compared."""
    assert report_html(result) == page


def test_a_report_without_requests_has_no_latencies(tmp_path: Path) -> None:
    """And one of the omniscient alone, who decides nothing, has no windows."""
    plain = backtest(record(), PaperSetting(window_s=7200.0), policies=["omniscient"], windows=1)
    path = write_report(plain, tmp_path / "deep" / "report")
    text = path.read_text()
    assert path.name == "index.html"
    assert "latency-says" not in text
    assert "What it decided" not in text


def test_without_matplotlib_it_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BacktestError, match=r"pip install 'hedgeserve\[report\]'"):
        check_report(tmp_path)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BacktestError, match="no report can be written"):
        check_report(tmp_path / "file" / "report")


# Windows that are looked at again


def test_the_worst_window_is_played_once_more_as_it_was(result: Backtest) -> None:
    """The same figures, now with everything that happened."""
    worst = replay(result)
    assert worst is not None
    assert worst.policy == "spothedge"
    windows = result.policy("spothedge").windows
    assert worst.outcome.availability == min(one.availability or 0.0 for one in windows)
    assert worst.outcome.cost_usd == windows[worst.window].cost_usd
    assert worst.outcome.decisions
    other = rival(result, "round-robin", worst.window)
    assert other.cost_usd == result.policy("round-robin").windows[worst.window].cost_usd
    best = bound(result, worst.window)
    assert best.cost_usd == result.policy(OMNISCIENT).windows[worst.window].cost_usd


def test_the_policy_to_look_at(result: Backtest) -> None:
    """One of production where there is one; nobody where only hindsight was tried."""
    assert focus(result) == "spothedge"
    others = backtest(record(), PaperSetting(window_s=7200.0), policies=["on-demand", "round-robin"], windows=1)
    assert focus(others) == "round-robin"
    nobody = backtest(record(), PaperSetting(window_s=7200.0), policies=["omniscient"], windows=1)
    assert replay(nobody) is None


def test_a_story_tells_what_was_refused_again_and_again_once() -> None:
    """When, what, where, why; a launch that is granted, or any other decision, ends the patience."""
    first, other = ZoneId("aws/r/a"), ZoneId("aws/r/b")
    asked = [(0.0, first), (0.0, other), (30.0, first), (60.0, first), (90.0, other), (120.0, first)]
    decisions = tuple(
        Decision(at_s, "launch", zone, Market.SPOT, "spread", "one is missing") for at_s, zone in asked
    )
    bridge = Decision(100.0, "launch", first, Market.ON_DEMAND, "fallback", "spot is missing")
    outcome = FleetOutcome(
        policy="x", window_s=200.0, warm_up_s=0, counted_s=200.0, available_s=0.0, spot_usd=0.0, on_demand_usd=0.0,
        on_demand_h=0.0, preemptions=0, launches=1, refused=6, lives=(),
        refusals=tuple(Refusal(at_s, zone, Market.SPOT) for at_s, zone in asked),
        decisions=(*decisions[:5], bridge, decisions[5]), ready={}, targets=((0.0, 1),),
    )  # fmt: skip
    assert [told.line() for told in story(outcome)] == [
        "00:00:00  launch spot in aws/r/a: one is missing (refused, and 2 times more until 00:01:00)",
        "00:00:00  launch spot in aws/r/b: one is missing (refused, and 1 time more until 00:01:30)",
        "00:01:40  launch on-demand in aws/r/a: spot is missing",
        "00:02:00  launch spot in aws/r/a: one is missing (refused)",
    ]
    assert clock(86400.0) == "24:00:00"
