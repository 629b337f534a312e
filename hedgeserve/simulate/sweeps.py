"""A sweep: the back-test of every combination of some settings, to see what each of them is worth."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hedgeserve.errors import BacktestError
from hedgeserve.simulate.backtests import Backtest, World, as_scenario, backtests
from hedgeserve.simulate.parallel import Progress
from hedgeserve.simulate.scenario import (
    Requests,
    Scenario,
    with_cold_start,
    with_notice,
    with_overprovision,
    with_price_ratio,
    with_target,
    with_zones,
)
from hedgeserve.simulate.traces import TraceSet
from hedgeserve.units import format_duration, parse_duration_s

_MOST_CELLS = 10_000

VARIABLES: dict[str, str] = {
    "cold-start": "duration",
    "notice": "duration",
    "overprovision": "whole",
    "target": "whole",
    "zones": "whole",
    "price-ratio": "number",
}
"""What can be varied, and what kind of value it takes."""


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One combination: the value of each setting that is varied (durations in seconds), and its back-test."""

    values: Mapping[str, float]
    result: Backtest


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every combination, the last setting varying fastest."""

    cells: tuple[SweepCell, ...]


def sweep(
    traces: TraceSet,
    world: World,
    *,
    vary: Mapping[str, Sequence[float]],
    policies: Sequence[str] | None = None,
    windows: int = 20,
    seed: int = 0,
    requests: Requests | None = None,
    jobs: int | None = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Back-test the cross product of the values in ``vary``, whose keys are those of :data:`VARIABLES`.

    ``cold-start`` and ``notice`` are in seconds, for all zones; ``zones`` is how many of the first zones there
    are; ``price-ratio`` is on-demand's price over spot's, by zone. Everything else is as in
    :func:`~hedgeserve.simulate.backtests.backtest`. ``scheduler`` is the address of a Dask scheduler
    (``tcp://host:8786``); the results are the same, bit for bit.

    Raises:
        BacktestError: A setting is unknown or impossible, or as for ``backtest``.
    """
    return sweep_scenario(
        as_scenario(traces, world, requests=requests),
        vary=vary,
        policies=policies,
        windows=windows,
        seed=seed,
        jobs=jobs,
        scheduler=scheduler,
        progress=progress,
    )


def sweep_scenario(
    scenario: Scenario,
    *,
    vary: Mapping[str, Sequence[float]],
    policies: Sequence[str] | None = None,
    windows: int = 20,
    seed: int = 0,
    jobs: int | None = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """:func:`sweep` of a world that was put together already."""
    combinations = _combinations(vary)
    results = backtests(
        [_varied(scenario, values) for values in combinations],
        policies=policies,
        windows=windows,
        seed=seed,
        jobs=jobs,
        scheduler=scheduler,
        progress=progress,
    )
    return Sweep(tuple(SweepCell(values, result) for values, result in zip(combinations, results, strict=True)))


def _combinations(vary: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    for key, values in vary.items():
        if key not in VARIABLES:
            raise BacktestError(f'"{key}" cannot be varied; what can is {", ".join(VARIABLES)}')
        if not values:
            raise BacktestError(f"{key} has no values to try")
    count = 1
    for values in vary.values():
        count *= len(values)
    if count > _MOST_CELLS:
        raise BacktestError(f"{count} combinations are more than {_MOST_CELLS}; vary less at a time")
    return [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]


def _varied(scenario: Scenario, values: Mapping[str, float]) -> Scenario:
    # Zones first: a price ratio is by the prices of the zones that are left.
    for key in sorted(values, key=lambda key: key != "zones"):
        value = values[key]
        match key:
            case "zones":
                scenario = with_zones(scenario, int(value))
            case "cold-start":
                scenario = with_cold_start(scenario, (value,))
            case "notice":
                scenario = with_notice(scenario, value)
            case "overprovision":
                scenario = with_overprovision(scenario, int(value))
            case "target":
                scenario = with_target(scenario, int(value))
            case "price-ratio":
                scenario = with_price_ratio(scenario, value)
    return scenario


def parse_vary(text: str) -> tuple[str, tuple[float, ...]]:
    """A setting and its values, from ``cold-start=60s,120s``, ``overprovision=0..3`` or ``price-ratio=2,3.5``.

    Raises:
        ValueError: It is written in another way; the message says how.
    """
    key, equals, listed = text.partition("=")
    key = key.strip()
    if not equals or key not in VARIABLES:
        raise ValueError(
            f'"{text}" says nothing to vary; write one of {", ".join(VARIABLES)} with its values, such as '
            "cold-start=60s,120s or overprovision=0..3"
        )
    values: list[float] = []
    for part in listed.split(","):
        values += _values(key, part.strip())
    return key, tuple(dict.fromkeys(values))


def _values(key: str, text: str) -> list[float]:
    match VARIABLES[key]:
        case "duration":
            return [parse_duration_s(text)]
        case "whole":
            found = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text)
            if found is None or int(found[2] or found[1]) < int(found[1]):
                raise ValueError(f'{key} takes whole numbers, such as "0..3" or "1,2,4", not "{text}"')
            return [float(value) for value in range(int(found[1]), int(found[2] or found[1]) + 1)]
        case _:
            if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) is None or not float(text):
                raise ValueError(f'{key} takes numbers above 0, such as "2,3.5", not "{text}"')
            return [float(text)]


def written(values: Mapping[str, float]) -> dict[str, Any]:
    """The values of a cell as people read them: durations with their unit, whole numbers as such."""
    kinds: dict[str, Callable[[float], Any]] = {"duration": format_duration, "whole": int, "number": float}
    return {key: kinds[VARIABLES[key]](value) for key, value in values.items()}
