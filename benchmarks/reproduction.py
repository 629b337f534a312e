"""Whether the simulated world gives the figures of the published simulator, with its policies and its windows."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.markdown import Section, measured, table
from benchmarks.paired import mean, sd
from benchmarks.published import (
    FEW_WINDOWS,
    OMNISCIENT,
    OMNISCIENT_MEAN,
    POLICIES,
    SEED,
    VARIED,
    WINDOWS,
    Published,
)
from hedgeserve.simulate import PaperSetting, TraceSet
from hedgeserve.simulate.aggregate import WindowFigures
from hedgeserve.simulate.backtests import backtests
from hedgeserve.simulate.scenario import Scenario, paper_scenario

COST_WITHIN, AVAILABILITY_WITHIN, ERRORS_WITHIN = 1.5, 0.5, 2.0
"""Points of cost, points of availability; Even Spread: standard errors of the difference."""

NAMES = {"aws-1": "AWS 1", "aws-3": "AWS 3"}
SETTINGS = {"cold_start_s": "cold start {:g} s", "overprovision": "N_extra {:g}", "price_ratio": "k = {:g}"}

POLICY_HEADINGS = (
    "trace", "policy", "N_extra", "availability %", "published", "difference",
    "cost %", "published", "difference", "verdict",
)  # fmt: skip
VARIED_HEADINGS = ("trace", "setting", *POLICY_HEADINGS[3:])
BOUND_HEADINGS = ("trace", "", *(str(number) for number in range(1, 11)), "mean", "verdict")


def reproduction(records: Mapping[str, TraceSet], jobs: int) -> Section:
    """The three tables."""
    section = Section("reproduction")
    section.add(
        measured(
            section.name,
            f"{WINDOWS} windows of 24 h, the settings' and the omniscient's figures over the first {FEW_WINDOWS}; "
            f"seed {SEED} (`numpy.random.RandomState`)",
        ),
        table(POLICY_HEADINGS, _policies(records, jobs, section), words=2),
        "`spothedge-artifact` with one setting changed:",
        table(VARIED_HEADINGS, _varied(records, jobs, section), words=2),
        "The omniscient bound, cost in % of on-demand in each window, the warm-up billed as published:",
        table(BOUND_HEADINGS, _bound(records, jobs, section), words=2),
    )
    return section


def _policies(records: Mapping[str, TraceSet], jobs: int, section: Section) -> list[list[str]]:
    rows: list[list[str]] = []
    for extra in (0, 1):
        names = tuple(dict.fromkeys(one.policy for one in POLICIES if one.extra == extra))
        scenarios = [paper_scenario(record, PaperSetting(overprovision=extra)) for record in records.values()]
        results = backtests(scenarios, policies=names, windows=WINDOWS, seed=SEED, jobs=jobs)
        for trace, result in zip(records, results, strict=True):
            wanted = [one for one in POLICIES if (one.trace, one.extra) == (trace, extra)]
            rows += [policy_row(one, result.policy(one.policy).windows, section) for one in wanted]
    order = [(NAMES[one.trace], f"`{one.policy}`", str(one.extra)) for one in POLICIES]
    return sorted(rows, key=lambda row: order.index((row[0], row[1], row[2])))


def policy_row(published: Published, windows: tuple[WindowFigures, ...], section: Section) -> list[str]:
    """One policy beside what is published, with a verdict."""
    availability, cost = percents(windows, "availability"), percents(windows, "cost_vs_on_demand")
    if published.policy == "even-spread":
        limits = [
            ERRORS_WITHIN * math.hypot(sd(ours), spread) / math.sqrt(len(ours))
            for ours, spread in ((availability, published.availability_sd), (cost, published.cost_sd))
        ]
    else:
        limits = [AVAILABILITY_WITHIN, COST_WITHIN]
    pairs = ((mean(availability), published.availability), (mean(cost), published.cost))
    name = f"{NAMES[published.trace]}, {published.policy}, N_extra {published.extra}"
    return [
        NAMES[published.trace],
        f"`{published.policy}`",
        str(published.extra),
        *(f"{mean(availability):.2f} ± {sd(availability):.2f}", f"{published.availability:.2f}"),
        f"{pairs[0][0] - pairs[0][1]:+.2f}",
        *(f"{mean(cost):.2f} ± {sd(cost):.2f}", f"{published.cost:.2f}"),
        f"{pairs[1][0] - pairs[1][1]:+.2f}",
        section.judge(name, misses(pairs, limits)),
    ]


def misses(pairs: tuple[tuple[float, float], ...], limits: list[float]) -> list[str]:
    """What is further from its published figure than it may be: of availability and cost."""
    return [
        f"{what} {ours - theirs:+.2f}, ±{limit:.2f} allowed"
        for what, (ours, theirs), limit in zip(("availability", "cost"), pairs, limits, strict=True)
        if abs(ours - theirs) > limit
    ]


def _varied(records: Mapping[str, TraceSet], jobs: int, section: Section) -> list[list[str]]:
    cases = [one for one in VARIED if one.trace in records]
    scenarios: list[Scenario] = []
    for one in cases:
        value: Any = int(one.value) if one.setting == "overprovision" else one.value
        setting = replace(PaperSetting(overprovision=1), **{one.setting: value})
        scenarios.append(paper_scenario(records[one.trace], setting))
    results = backtests(scenarios, policies=["spothedge-artifact"], windows=FEW_WINDOWS, seed=SEED, jobs=jobs)
    rows = []
    for one, result in zip(cases, results, strict=True):
        windows = result.policy("spothedge-artifact").windows
        availability, cost = mean(percents(windows, "availability")), mean(percents(windows, "cost_vs_on_demand"))
        pairs = ((availability, one.availability), (cost, one.cost))
        setting_name = SETTINGS[one.setting].format(one.value)
        missed = misses(pairs, [AVAILABILITY_WITHIN, COST_WITHIN])
        rows.append(
            [
                NAMES[one.trace],
                setting_name,
                *(f"{availability:.2f}", f"{one.availability:g}", f"{availability - one.availability:+.2f}"),
                *(f"{cost:.2f}", f"{one.cost:g}", f"{cost - one.cost:+.2f}"),
                section.judge(f"{NAMES[one.trace]}, {setting_name}", missed),
            ]
        )
    return rows


def _bound(records: Mapping[str, TraceSet], jobs: int, section: Section) -> list[list[str]]:
    """The published program bills the first cold start too: no warm-up, in which nothing can be ready yet."""
    scenarios = [replace(paper_scenario(record, PaperSetting()), warm_up_s=0.0) for record in records.values()]
    results = backtests(scenarios, policies=["omniscient"], windows=FEW_WINDOWS, seed=SEED, jobs=jobs)
    rows = []
    for trace, result in zip(records, results, strict=True):
        ours = percents(result.policy("omniscient").windows, "cost_vs_on_demand")
        if trace == "aws-3":
            ours = sorted(ours)
        missed = [
            f"window {number} {one - other:+.1f}"
            for number, (one, other) in enumerate(zip(ours, OMNISCIENT[trace], strict=True), 1)
            if abs(one - other) > COST_WITHIN
        ]
        verdict = section.judge(f"{NAMES[trace]}, omniscient", missed)
        rows.append([NAMES[trace], "ours", *(f"{one:.1f}" for one in ours), f"{mean(ours):.1f}", verdict])
        theirs = [*(f"{one:.1f}" for one in OMNISCIENT[trace]), f"{OMNISCIENT_MEAN[trace]:.1f}", ""]
        rows.append([NAMES[trace], "published", *theirs])
    return rows


def percents(windows: tuple[WindowFigures, ...], key: str) -> list[float]:
    """One measure of each window, in percent."""
    return [100 * getattr(one, key) for one in windows]
