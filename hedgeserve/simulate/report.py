"""The report of a back-test: one HTML file that needs nothing else: no scripts, no other files, no network."""

import importlib.util
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from hedgeserve._version import __version__
from hedgeserve.errors import BacktestError
from hedgeserve.simulate.aggregate import MEASURES, Measure, PolicyFigures
from hedgeserve.simulate.backtests import Backtest
from hedgeserve.simulate.export import settings_json
from hedgeserve.simulate.outcome import FleetOutcome
from hedgeserve.simulate.policies import OMNISCIENT
from hedgeserve.simulate.replay import Replay, bound, clock, replay, rival, story, title
from hedgeserve.units import format_duration

_DECISIONS = 50

_LIMITS = (
    "The past is not the future: these are the hours that were recorded, and no others.",
    "Recorded capacity is what one account could have had. A larger fleet may find less, and the launches of "
    "others, prices and quotas do not react to what is simulated.",
    "On-demand is granted always, unless the setting says otherwise; cold starts take the times that were given.",
    "Between two moments at which the policy may act (the tick) nothing is decided; what falls between them is "
    "seen at the next one.",
    "Requests are answered at rates that do not depend on how full a replica is; the network takes no time.",
    "Storage, traffic between regions and the controller itself cost nothing here.",
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --grid: #dcdcdc; --pale: #d6e4ee;
  --faint: #5c5c5c; --spot: #0072b2; --on-demand: #e69f00; --short: #d55e00; --green: #009e73; --pink: #c06090;
  --sky: #3d9fd8; --grey: #7d7d7d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #151719; --grid: #3a3d40; --pale: #24384a;
  --faint: #a5a5a5; --spot: #3a9bd9; --on-demand: #f0b23c; --short: #f07c32; --green: #2fc79b; --pink: #e08fb8;
  --sky: #7cc7f2; --grey: #a0a0a0; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin-bottom: 0; }
p, li { max-width: 46rem; } .faint, figcaption { color: var(--faint); font-size: 0.9rem; }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } figure svg { width: 100%; min-width: 40rem; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem 0.3rem 0; text-align: right; white-space: nowrap; vertical-align: baseline;
  border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td small { color: var(--faint); } .log td, .log th { text-align: left; }
.log td:last-child { white-space: normal; min-width: 20rem; } pre { overflow-x: auto; font-size: 0.85rem; }
"""


def check_report(folder: Path) -> None:
    """Return where a report can be drawn and written, before anybody waits for a simulation.

    Raises:
        BacktestError: matplotlib is missing, or the folder cannot be made.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise BacktestError("a report needs matplotlib: pip install 'hedgeserve[report]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BacktestError(
            f"no report can be written to {folder}: {error.strerror}; give another folder"
        ) from None


def write_report(result: Backtest, folder: Path) -> Path:
    """Write ``index.html`` into a folder, which is made; the path of the file.

    Raises:
        BacktestError: As :func:`check_report`, or the file cannot be written.
    """
    check_report(folder)
    path = folder / "index.html"
    try:
        path.write_text(report_html(result), encoding="utf-8")
    except OSError as error:
        raise BacktestError(f"{path} cannot be written: {error.strerror}") from None
    return path


def report_html(result: Backtest) -> str:
    """The page. The windows that it shows are simulated once more, with everything that happens in them."""
    from hedgeserve.simulate import pictures

    played = _shown(result)
    body = [
        _head(result),
        _section("What it comes to", _summary(result.policies), _notes(result.notes)),
        _section(
            "Cost against availability",
            _figure(
                "points",
                pictures.cost_and_availability("points", result.policies),
                "Each policy over all windows: the further left the cheaper, the higher the more dependable. Bars "
                "are one standard deviation; the upper axis counts nines, and ends at 99.99 %.",
            ),
        ),
    ]
    if any(one.latency_p50_s is not None for one in result.policies):
        body.append(
            _section(
                "Latency",
                _figure(
                    "latency",
                    pictures.latencies("latency", result.policies),
                    "The share of all requests that were answered within a time, averaged over the windows. A "
                    "curve that ends below 100 % has requests that failed.",
                ),
            )
        )
    body += [_window(result, one) for one in played]
    if played:
        body.append(_decisions(played[0]))
    body.append(_setting(result))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Back-test of {escape(result.scenario.name)} on {escape(result.scenario.record)}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _shown(result: Backtest) -> list[Replay]:
    """The worst window, and the median one where that is another."""
    found = [one for rank in ("worst", "median") if (one := replay(result, rank=rank)) is not None]
    return found[:1] if len(found) > 1 and found[0].window == found[1].window else found


def _head(result: Backtest) -> str:
    scenario = result.scenario
    scaled = scenario.demand is not None and scenario.demand.scaled
    needed = "as many replicas as the requests ask for" if scaled else f"{scenario.target} replicas at all times"
    if scenario.schedule is not None:
        needed = f"as many replicas as the schedule {'and the requests ask' if scaled else 'asks'} for"
    zones = len({model.offer.zone for model in scenario.offers})
    windows = f"{result.windows} window{'s' * (result.windows != 1)} of {format_duration(scenario.window_s)}"
    world = "the paper's world" if scenario.name == "paper" else f"the service {scenario.name}"
    return (
        f"<h1>Back-test on {escape(scenario.record)}</h1>\n<p>{escape(world.capitalize())} on the recorded spot "
        f"capacity of {zones} zone{'s' * (zones != 1)}: {windows}, {escape(needed)}. Nothing was launched or paid "
        f"for.</p>\n<p class=faint>hedgeserve {__version__}</p>"
    )


def _section(heading: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _summary(policies: Sequence[PolicyFigures]) -> str:
    shown = [one for one in MEASURES if any(figures.stat(one) is not None for figures in policies)]
    heads = "".join(f"<th scope=col>{escape(one.heading)}</th>" for one in shown)
    rows = "".join(
        f"<tr><td>{escape(figures.policy)}</td>{''.join(_cell(figures, one) for one in shown)}</tr>\n"
        for figures in policies
    )
    table = f"<table>\n<thead><tr><th scope=col>policy</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>"
    return (
        f"<div class=wide>{table}</div>\n<p class=faint>Means over the windows, with their standard deviations. "
        "<em>Of on-demand</em>: the cost, as a share of what the target costs on on-demand VMs alone. <em>Of "
        "omniscient</em>: as a share of the least that anybody could have paid who had known the record. "
        "<em>Available</em>: the share of the time with as many ready replicas as the target.</p>"
    )


def _cell(figures: PolicyFigures, measure: Measure) -> str:
    stat = figures.stat(measure)
    if stat is None:
        return "<td>–</td>"
    return f"<td>{escape(measure.write(stat.mean))} <small>± {escape(measure.write(stat.sd))}</small></td>"


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
    return f"<ul class=faint>\n{items}</ul>" if items else ""


def _figure(name: str, svg: str, caption: str) -> str:
    says = f"<figcaption id={name}-says>{escape(caption)}</figcaption>"
    return f"<figure>\n<div class=wide>{svg}</div>\n{says}\n</figure>"


def _window(result: Backtest, played: Replay) -> str:
    from hedgeserve.simulate import pictures

    scenario, rank = result.scenario, played.rank
    names = [figures.policy for figures in result.policies]
    outcomes: dict[str, FleetOutcome] = {
        name: played.outcome if name == played.policy else rival(result, name, played.window)
        for name in names
        if name != OMNISCIENT
    }
    best = bound(result, played.window) if OMNISCIENT in names else None
    outcome = played.outcome
    said = (
        f"{played.policy} had the target ready for {100 * outcome.availability:.2f} % of the time, for "
        f"{outcome.cost_usd:,.2f} USD, through {outcome.preemptions} preemptions and {outcome.refused} refused "
        "launches."
    )
    return _section(
        title(played)[4].upper() + title(played)[5:],
        f"<p>{escape(said)}</p>",
        _figure(
            f"{rank}-fleet",
            pictures.fleet(f"{rank}-fleet", outcome, scenario, played.start_s),
            "Above: ready replicas by market against the target; a black mark below the axis is a time with too "
            "few. Below: each zone with its spot capacity (pale) and the life of each replica in it, pale while "
            "it starts, with a mark at its end where it was preempted; at the bottom on-demand, zones together.",
        ),
        _figure(
            f"{rank}-cost",
            pictures.money(f"{rank}-cost", outcomes, best, scenario, names),
            "What each policy had cost by then in the same window; a curve that bends up is on-demand at work.",
        ),
    )


def _decisions(played: Replay) -> str:
    told = story(played.outcome)
    rows = "".join(
        f"<tr><td>{clock(one.decision.at_s)}</td><td>{escape(one.where)}</td>"
        f"<td>{escape(one.decision.zone.rsplit('/', 1)[-1])}</td><td>{escape(one.decision.reason)}"
        + (f" <small>({escape(one.outcome)})</small>" if one.refused else "")
        + "</td></tr>\n"
        for one in told[:_DECISIONS]
    )
    return _section(
        "What it decided, and why",
        f"<p>The first decisions in {escape(title(played))}, with the time since the window began; "
        f"{len(played.outcome.decisions)} in all. Launches that are refused again and again are told once.</p>",
        "<div class=wide><table class=log>\n<thead><tr><th scope=col>at</th><th scope=col>what</th>"
        f"<th scope=col>zone</th><th scope=col>why</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>",
    )


def _setting(result: Backtest) -> str:
    limits = "".join(f"<li>{escape(limit)}</li>\n" for limit in _LIMITS)
    return _section(
        "What was simulated, and what was not",
        f"<ul>\n{limits}</ul>",
        f"<details><summary>The settings</summary><pre>{escape(json.dumps(settings_json(result), indent=2))}</pre>"
        "</details>",
    )
