"""The pictures of a report, each as an SVG that takes its colours from the page around it (light or dark).

Colours are those of Okabe and Ito, which can be told apart without red or green; lines differ in their dashes too.
Needs matplotlib (the extra ``report``); nothing else imports this module.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hedgeserve.replica import Market, ZoneId
from hedgeserve.simulate.aggregate import QUANTILES, PolicyFigures
from hedgeserve.simulate.omniscient import OmniscientOutcome
from hedgeserve.simulate.outcome import FleetOutcome, Life
from hedgeserve.simulate.scenario import Scenario

Floats = npt.NDArray[np.float64]

INK, GRID, PALE = "#010101", "#020202", "#030303"
SPOT, ON_DEMAND, SHORT = "#0072b2", "#e69f00", "#d55e00"
_LINES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a8a")
_OWN = {
    "forecast": ("#0072b2", "-", "o"),
    "spothedge": ("#e69f00", "-", "s"),
    "spothedge-artifact": ("#d55e00", "--", "D"),
    "round-robin-fallback": ("#009e73", "-.", "^"),
    "round-robin": ("#009e73", ":", "v"),
    "even-spread": ("#cc79a7", "-.", "P"),
    "on-demand": ("#8a8a8a", "--", "X"),
    "omniscient": (INK, ":", "*"),
}
"""Those that are tried most look alike in every report; the others take what is left, in turn."""
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

PAGE_COLOURS = {
    INK: "currentColor",
    GRID: "var(--grid)",
    PALE: "var(--pale)",
    SPOT: "var(--spot)",
    ON_DEMAND: "var(--on-demand)",
    SHORT: "var(--short)",
    "#009e73": "var(--green)",
    "#cc79a7": "var(--pink)",
    "#56b4e9": "var(--sky)",
    "#8a8a8a": "var(--grey)",
}
"""What each colour is called in the style sheet of the page."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hedgeserve",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def _drawn(name: str, width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """The SVG of a figure, its ids made its own so that several can stand on one page."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, called in PAGE_COLOURS.items():
        svg = svg.replace(colour, called)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'"#([^"]+)"', rf'"#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return svg.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-says" ', 1)


def policy_styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """A colour, a dash and a marker for each policy, the same in all pictures."""
    styles: dict[str, tuple[str, str, str]] = {}
    for index, name in enumerate(names):
        if name in _OWN:
            styles[name] = _OWN[name]
            continue
        dash = _DASHES[(index + index // len(_LINES)) % len(_DASHES)]
        styles[name] = (_LINES[index % len(_LINES)], dash, _MARKERS[index % len(_MARKERS)])
    return styles


# Policies against each other


def cost_and_availability(name: str, policies: Sequence[PolicyFigures]) -> str:
    """Each policy as a point: dear to the right, dependable at the top; bars are standard deviations."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        styles = policy_styles(one.policy for one in policies)
        relative = all(one.cost_vs_on_demand is not None for one in policies)
        for one in policies:
            cost = one.cost_vs_on_demand if relative else one.cost_usd
            if cost is None or one.availability is None:
                continue
            colour, _, marker = styles[one.policy]
            scale = 100 if relative else 1
            mean, sd = one.availability.mean, one.availability.sd
            ends = [[_nines(mean) - _nines(mean - sd)], [_nines(mean + sd) - _nines(mean)]]
            axes.errorbar(
                scale * cost.mean,
                _nines(mean),
                xerr=scale * cost.sd,
                yerr=ends,
                color=colour,
                marker=marker,
                markersize=9,
                elinewidth=1.1,
                linestyle="none",
                label=one.policy,
            )
        axes.set_yticks([_nines(value) for value, _ in _TICKS], [text for _, text in _TICKS])
        axes.set_ylim(-0.08, _nines(1.0) + 0.15)
        axes.set_xlim(left=0)
        axes.set_xlabel("cost, % of on-demand alone" if relative else "cost of a window, USD")
        axes.set_ylabel("time with enough ready replicas")
        axes.grid(True)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _drawn(name, 8.6, 4.6, draw)


_FLOOR = 1e-4
_TICKS = ((0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (1.0, "100 %"))


def _nines(availability: float) -> float:
    """A scale on which 90 %, 99 % and 99.9 % are as far from each other; ends at 99.99 %, which is 100 % there."""
    return -float(np.log10(min(1.0, max(_FLOOR, 1.0 - min(1.0, max(0.0, availability))))))


def latencies(name: str, policies: Sequence[PolicyFigures]) -> str:
    """The share of all requests that were answered within a time; what failed never is."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        styles = policy_styles(one.policy for one in policies)
        shown: list[float] = []
        for one in policies:
            known = [window.latency_quantiles_s for window in one.windows if window.latency_quantiles_s]
            if not known:
                continue
            shown.append(float(np.mean(known, axis=0)[2]))
            answered = 1.0 - (one.failed_ratio.mean if one.failed_ratio else 0.0)
            colour, dash, _ = styles[one.policy]
            axes.plot(
                np.mean(known, axis=0),
                100 * answered * np.array(QUANTILES),
                color=colour,
                linestyle=dash,
                label=one.policy,
            )
        axes.set_xscale("log")
        if shown:
            axes.set_xlim(left=max(0.01, 0.8 * min(shown)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("latency from arrival to last token, s (log scale)")
        axes.set_ylabel("requests answered within, %")
        axes.set_ylim(0, 101)
        axes.grid(True)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _drawn(name, 8.6, 4.2, draw)


# One window


def fleet(name: str, outcome: FleetOutcome, scenario: Scenario, start_s: float) -> str:
    """Ready replicas against the target, and below them each replica's life in its zone's capacity."""
    zones = list(dict.fromkeys(model.offer.zone for model in scenario.offers if model.capacity is not None))
    rows: list[tuple[str, list[Life], ZoneId | None]] = [
        (zone.rsplit("/", 1)[-1], _lives(outcome, Market.SPOT, zone), zone) for zone in zones
    ]
    rows.append(("on-demand", _lives(outcome, Market.ON_DEMAND, None), None))
    lanes = [max([2, *(lane + 1 for lane in _lanes(lives))]) for _, lives, _ in rows]
    below = 0.35 + 0.14 * sum(lanes)

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.9, below]})
        _ready(top, outcome)
        y = 0.0
        ticks: list[tuple[float, str]] = []
        for (label, lives, zone), height in zip(rows, lanes, strict=True):
            y -= height + 0.8
            ticks.append((y + height / 2, label))
            if zone is not None:
                _capacity(bottom, scenario, zone, start_s, y, height)
            _bars(bottom, lives, y, ON_DEMAND if zone is None else SPOT)
        bottom.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
        bottom.tick_params(axis="y", length=0)
        bottom.set_ylim(y - 0.4, 0)
        bottom.spines["left"].set_visible(False)
        bottom.set_xlabel("hours since the window began")
        bottom.set_xlim(0, outcome.window_s / 3600)
        bottom.grid(True, axis="x")
        bottom.xaxis.set_major_locator(_hours())

    return _drawn(name, 9.2, 2.7 + below, draw)


def _hours() -> MaxNLocator:
    return MaxNLocator(nbins=9, steps=[1, 2, 3, 6, 10])


def _ready(axes: Axes, outcome: FleetOutcome) -> None:
    times = _times(outcome)
    hours = times / 3600
    spot = sum((_at(steps.get(Market.SPOT, ()), times) for steps in outcome.ready.values()), np.zeros(len(times)))
    bridge = sum(
        (_at(steps.get(Market.ON_DEMAND, ()), times) for steps in outcome.ready.values()), np.zeros(len(times))
    )
    target = _at(outcome.targets, times)
    both = spot + bridge
    plain: dict[str, Any] = {"step": "post", "linewidth": 0}
    axes.fill_between(hours, 0, spot, color=SPOT, label="spot", **plain)
    axes.fill_between(hours, spot, both, color=ON_DEMAND, label="on-demand", **plain)
    axes.fill_between(
        hours, -0.45, -0.15, where=both < target, step="post", color=INK, linewidth=0.7, label="below the target"
    )
    axes.step(hours, target, where="post", color=INK, linewidth=1.3, linestyle="--", label="target")
    axes.set_ylim(-0.6, max(both.max(), target.max()) + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel("ready replicas")
    axes.grid(True, axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.2)


def _capacity(axes: Axes, scenario: Scenario, zone: ZoneId, start_s: float, y: float, height: int) -> None:
    """The spot capacity of a zone, in lanes, as a pale ground."""
    trace = next(model.capacity for model in scenario.offers if model.offer.zone == zone and model.capacity)
    first, last = int(start_s // trace.gap_s), int((start_s + scenario.window_s) // trace.gap_s) + 1
    index = np.arange(first, last + 1)
    hours = (index * trace.gap_s - start_s) / 3600
    counts = np.minimum(trace.counts[index % len(trace.counts)], height)
    axes.fill_between(hours, y, y + counts, step="post", color=PALE, linewidth=0)


def _bars(axes: Axes, lives: Sequence[Life], y: float, colour: str) -> None:
    for life, lane in zip(lives, _lanes(lives), strict=True):
        ready_s = life.ended_s if life.ready_s is None else life.ready_s
        spans = ((life.launched_s, ready_s, 0.45), (ready_s, life.ended_s, 1.0))
        for begin_s, end_s, alpha in spans:
            if end_s > begin_s:
                bar = [(begin_s / 3600, (end_s - begin_s) / 3600)]
                axes.broken_barh(bar, (y + lane + 0.15, 0.7), facecolor=colour, alpha=alpha, linewidth=0)
        if life.gone == "preempted":
            axes.plot(
                life.ended_s / 3600, y + lane + 0.5, marker="|", color=SHORT, markersize=7, markeredgewidth=1.6
            )


def _lives(outcome: FleetOutcome, market: Market, zone: ZoneId | None) -> list[Life]:
    return sorted(
        (life for life in outcome.lives if life.market is market and zone in (None, life.zone)),
        key=lambda life: life.launched_s,
    )


def _lanes(lives: Sequence[Life]) -> list[int]:
    """The lowest lane for each life in which none that began before is still there."""
    free_s: list[float] = []
    chosen: list[int] = []
    for life in lives:
        lane = next((index for index, end_s in enumerate(free_s) if end_s <= life.launched_s), len(free_s))
        free_s[lane : lane + 1] = [life.ended_s]
        chosen.append(lane)
    return chosen


def money(
    name: str,
    outcomes: Mapping[str, FleetOutcome],
    best: OmniscientOutcome | None,
    scenario: Scenario,
    names: Sequence[str],
) -> str:
    """What each policy had cost by each hour of a window, the warm-up left out."""
    hours = np.linspace(0, scenario.window_s / 3600, 241)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        styles = policy_styles(names)
        for policy in names:
            if policy in outcomes:
                spent = _spent(outcomes[policy], hours * 3600)
            elif best is not None and policy == "omniscient":
                spent = _spent_best(best, scenario, hours * 3600)
            else:
                continue
            colour, dash, _ = styles[policy]
            axes.plot(hours, spent, color=colour, linestyle=dash, label=policy)
        axes.set_xlim(0, hours[-1])
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(_hours())
        axes.set_xlabel("hours since the window began")
        axes.set_ylabel("cost so far, USD")
        axes.grid(True)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _drawn(name, 9.2, 3.6, draw)


def _spent(outcome: FleetOutcome, times: Floats) -> Floats:
    total = np.zeros(len(times))
    for life in outcome.lives:
        length_s = life.ended_s - life.launched_s
        if length_s > 0:
            begin_s = max(life.launched_s, outcome.warm_up_s)
            total += life.usd / length_s * np.clip(times - begin_s, 0, max(0.0, life.ended_s - begin_s))
    return total


def _spent_best(best: OmniscientOutcome, scenario: Scenario, times: Floats) -> Floats:
    spot = {
        zone: min(
            model.offer.usd_per_hour
            for model in scenario.offers
            if model.offer.zone == zone and model.offer.market is Market.SPOT
        )
        for zone in best.spot
    }
    fine = np.arange(scenario.warm_up_s, scenario.window_s, scenario.tick_s)
    rate = sum((_at(steps, fine) * spot[zone] for zone, steps in best.spot.items()), np.zeros(len(fine)))
    rate = rate + _at(best.on_demand, fine) * (scenario.on_demand_usd_per_hour or 0.0)
    spent = np.concatenate([[0.0], np.cumsum(rate) * scenario.tick_s / 3600])
    return np.asarray(np.interp(times, np.append(fine, scenario.window_s), spent))


def _times(outcome: FleetOutcome) -> Floats:
    """Every time at which something that is drawn changes, and the end."""
    found = {0.0, outcome.window_s, *(time_s for time_s, _ in outcome.targets)}
    for steps in outcome.ready.values():
        found |= {time_s for changes in steps.values() for time_s, _ in changes}
    return np.array(sorted(found))


def _at(steps: Sequence[tuple[float, float]], times: Floats) -> Floats:
    """A step function at these times; 0 before its first."""
    if not steps:
        return np.zeros(len(times))
    values = np.array([0.0, *(float(value) for _, value in steps)])
    return values[np.searchsorted([time_s for time_s, _ in steps], times, side="right")]
