"""The figures of a back-test as JSON and as CSV, in a shape that stays: new keys may come, none changes."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from hedgeserve.simulate.aggregate import MEASURES, PolicyFigures, Stat
from hedgeserve.simulate.backtests import Backtest
from hedgeserve.simulate.scenario import PoissonRequests, Scenario


def backtest_json(result: Backtest) -> dict[str, Any]:
    """``windows``, ``policies`` (``{"mean", "sd"}`` or null for each measure), ``settings`` and ``notes``."""
    return {
        "windows": result.windows,
        "policies": [_policy_json(figures) for figures in result.policies],
        "settings": settings_json(result),
        "notes": list(result.notes),
    }


def _policy_json(figures: PolicyFigures) -> dict[str, Any]:
    stats = {measure.key: _stat_json(figures.stat(measure)) for measure in MEASURES}
    return {"policy": figures.policy, **stats}


def _stat_json(stat: Stat | None) -> dict[str, float] | None:
    return None if stat is None else {"mean": stat.mean, "sd": stat.sd}


def settings_json(result: Backtest) -> dict[str, Any]:
    """What was simulated: everything that, with the traces, gives the same figures again."""
    scenario = result.scenario
    zones: dict[str, dict[str, Any]] = {}
    for model in scenario.offers:
        zone = zones.setdefault(model.offer.zone, {"zone": model.offer.zone})
        key = f"{model.offer.market}_usd_per_hour"
        zone[key] = min(model.offer.usd_per_hour, zone.get(key, math.inf))
    spot = [model for model in scenario.offers if model.capacity is not None]
    return {
        "name": scenario.name,
        "traces": scenario.record,
        "zones": list(zones.values()),
        "target": scenario.target,
        "overprovision": scenario.overprovision,
        "window_s": scenario.window_s,
        "warm_up_s": scenario.warm_up_s,
        "starts_s": list(result.starts_s),
        "seed": result.seed,
        "tick_s": scenario.tick_s,
        "cold_start_s": sorted({seconds for model in scenario.offers for seconds in model.cold_start_s}),
        "notice_s": sorted({model.notice_s for model in spot}),
        "no_notice_share": sorted({model.no_notice_share for model in spot}),
        "launch_latency_s": scenario.launch_latency_s,
        "preemption_order": scenario.preemption_order,
        "requests": _requests_json(scenario),
        "schedule": None if scenario.schedule is None else scenario.schedule.model_dump(mode="json"),
        "begins_at": None if scenario.schedule is None else scenario.begins_at.isoformat(),
    }


def _requests_json(scenario: Scenario) -> dict[str, Any] | None:
    demand = scenario.demand
    if demand is None:
        return None
    requests = demand.requests
    rate = requests.rate_per_s
    return {
        "from": "poisson" if isinstance(requests, PoissonRequests) else requests.name,
        "rate_per_s": rate,
        "service": str(demand.service),
        "on_loss": str(demand.on_loss),
        "set_the_target": demand.scaled,
    }


def backtest_csv(results: Iterable[tuple[Mapping[str, Any], Backtest]]) -> str:
    """One line a policy: the values that were varied, if any, the policy, mean and sd of each measure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, (varied, result) in enumerate(results):
        if number == 0:
            writer.writerow([*varied, "policy", "windows", *_columns()])
        for figures in result.policies:
            cells = [value for measure in MEASURES for value in _cells(figures.stat(measure))]
            writer.writerow([*varied.values(), figures.policy, result.windows, *cells])
    return text.getvalue()


def _columns() -> list[str]:
    return [f"{measure.key}_{part}" for measure in MEASURES for part in ("mean", "sd")]


def _cells(stat: Stat | None) -> tuple[str, str]:
    return ("", "") if stat is None else (repr(stat.mean), repr(stat.sd))
