"""What ``backtest`` and ``sweep`` print: tables on stdout, a progress bar on a terminal's stderr."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hedgeserve.simulate.aggregate import MEASURES, Measure, PolicyFigures
from hedgeserve.simulate.backtests import Backtest, available_cores, backtests
from hedgeserve.simulate.export import backtest_csv, backtest_json
from hedgeserve.simulate.fromspec import model_scenario
from hedgeserve.simulate.parallel import Progress as Told
from hedgeserve.simulate.replay import Replay, clock, replay, story, title
from hedgeserve.simulate.scenario import (
    PaperSetting,
    PoissonRequests,
    Requests,
    Scenario,
    paper_scenario,
    with_overprovision,
)
from hedgeserve.simulate.sweeps import Sweep, sweep_scenario, written
from hedgeserve.simulate.tracefiles import load_traces
from hedgeserve.simulate.workload import read_requests
from hedgeserve.specfile import load_spec

_WIDE_ENOUGH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What both verbs were asked for. ``model`` None: the paper's world. Other Nones: as the world has it."""

    traces: str
    ones_are: Literal["auto", "one", "unlimited"]
    model: str | None
    paper: PaperSetting
    policies: tuple[str, ...]
    requests: str | None
    request_scale: float
    poisson: float | None
    windows: int
    window_s: float
    seed: int
    tick_s: float | None
    overprovision: int | None
    jobs: int | None
    ignore_missing_zones: bool
    starts_at: datetime | None


def run_backtest(asked: Asked, *, out: str | None, output: str, show_decisions: int) -> None:
    """Back-test and print a ``"table"``, ``"json"`` or ``"csv"``; ``out`` is the folder of the report."""
    if out is not None:
        from hedgeserve.simulate.report import check_report

        check_report(Path(out))
    scenario = _scenario(asked)
    with _progress() as progress:
        [result] = backtests(
            [scenario],
            policies=asked.policies or None,
            windows=asked.windows,
            seed=asked.seed,
            jobs=asked.jobs or available_cores(),
            progress=progress,
        )
    worst = replay(result) if show_decisions else None
    match output:
        case "json":
            document = backtest_json(result)
            if worst is not None:
                document["decisions"] = _decisions_json(worst, show_decisions)
            sys.stdout.write(json.dumps(document) + "\n")
        case "csv":
            sys.stdout.write(backtest_csv([({}, result)]))
        case _:
            _print_table(result)
            if worst is not None:
                _print_decisions(worst, show_decisions)
    if out is not None:
        from hedgeserve.simulate.report import write_report

        with _talk().status("Drawing the report"):
            written_to = write_report(result, Path(out))
        sys.stderr.write(f"Wrote {written_to}.\n")


def run_sweep(asked: Asked, *, vary: Mapping[str, Sequence[float]], scheduler: str | None, output: str) -> None:
    """Back-test every combination and print; ``output`` as for :func:`run_backtest`."""
    scenario = _scenario(asked)
    with _progress() as progress:
        result = sweep_scenario(
            scenario,
            vary=vary,
            policies=asked.policies or None,
            windows=asked.windows,
            seed=asked.seed,
            jobs=asked.jobs or available_cores(),
            scheduler=scheduler,
            progress=progress,
        )
    match output:
        case "json":
            cells = [{"vary": written(cell.values), **backtest_json(cell.result)} for cell in result.cells]
            sys.stdout.write(json.dumps({"cells": cells}) + "\n")
        case "csv":
            sys.stdout.write(backtest_csv((written(cell.values), cell.result) for cell in result.cells))
        case _:
            _print_sweep(result)


def _scenario(asked: Asked) -> Scenario:
    # The model file first: its mistakes are told with their lines, whatever the traces are.
    spec = None if asked.model is None else load_spec(asked.model)
    traces = load_traces(Path(asked.traces), ones_are=asked.ones_are)
    requests = _requests(asked)
    if spec is None:
        return paper_scenario(traces, asked.paper, requests=requests)
    scenario = model_scenario(
        spec,
        traces,
        requests=requests,
        ignore_missing_zones=asked.ignore_missing_zones,
        begins_at=asked.starts_at,
    )
    if asked.overprovision is not None:
        scenario = with_overprovision(scenario, asked.overprovision)
    return replace(scenario, window_s=asked.window_s, tick_s=asked.tick_s or scenario.tick_s)


def _requests(asked: Asked) -> Requests | None:
    if asked.poisson is not None:
        return PoissonRequests(asked.poisson)
    if asked.requests is None:
        return None
    if asked.request_scale == 1.0:
        return read_requests(asked.requests, seed=asked.seed)
    if _counts_per_minute(asked.requests):
        return read_requests(asked.requests, seed=asked.seed, scale=1 / asked.request_scale)
    return read_requests(asked.requests, seed=asked.seed).scaled(asked.request_scale, asked.seed)


def _counts_per_minute(path: str) -> bool:
    """Whether a file holds counts, which are scaled before a request is made of each."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return "time (min)" in file.readline().lower()
    except (OSError, UnicodeDecodeError):
        return False  # who reads it says what is wrong with it


@contextmanager
def _progress() -> Iterator[Told | None]:
    """A bar on stderr where that is a terminal; it is gone when the work is done."""
    console = _talk()
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("windows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _talk() -> Console:
    return Console(stderr=True)


# Tables


def _print_table(result: Backtest) -> None:
    console = _stdout()
    scenario = result.scenario
    days = scenario.window_s / 3600
    console.print(
        f"{result.windows} window{'s' * (result.windows != 1)} of {days:g} h on {scenario.record}, "
        f"target {_target_of(scenario)}; "
        "mean ± standard deviation over windows"
    )
    measures = measured(result.policies)
    table, left_out = _fitting(console, result.policies, measures)
    console.print(table)
    if left_out:
        console.print(Text(f"in a wider terminal, --json or --csv: {', '.join(left_out)}", style="dim"))
    for note in result.notes:
        console.print(Text(f"note: {note}", style="dim"))


def _target_of(scenario: Scenario) -> str:
    by = ["the requests"] if scenario.demand is not None and scenario.demand.scaled else []
    by += ["the schedule"] if scenario.schedule is not None else []
    return f"set by {' and '.join(by)}" if by else str(scenario.target)


def _fitting(
    console: Console, policies: Sequence[PolicyFigures], measures: Sequence[Measure]
) -> tuple[Table, list[str]]:
    """The table, on a narrow terminal without deviations and then without the last columns; what it lacks."""
    left_out: list[str] = []
    shown = list(measures)
    deviations = True
    while True:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("policy", no_wrap=True)
        for measure in shown:
            # A heading may break between its words, a figure nowhere.
            heading = measure.heading if deviations else measure.heading.replace(" ", "\n")
            table.add_column(heading, justify="right", no_wrap=True)
        for figures in policies:
            cells = (_cell(figures, measure, deviations=deviations) for measure in shown)
            table.add_row(Text(figures.policy), *cells)
        if len(shown) == 1 or _width(console, table) <= console.width:
            return table, left_out
        if deviations:
            deviations = False
            left_out.append("standard deviations")
        else:
            left_out.append(shown.pop().heading)


def _width(console: Console, table: Table) -> int:
    """How wide it would be if the terminal had no end."""
    return console.measure(table, options=console.options.update_width(_WIDE_ENOUGH)).maximum


def measured(policies: Sequence[PolicyFigures]) -> list[Measure]:
    """The measures that at least one policy has."""
    return [measure for measure in MEASURES if any(figures.stat(measure) is not None for figures in policies)]


def _cell(figures: PolicyFigures, measure: Measure, *, deviations: bool = True) -> str:
    stat = figures.stat(measure)
    if stat is None:
        return "-"
    if not deviations:
        return measure.write(stat.mean)
    return f"{measure.write(stat.mean)} ± {measure.write(stat.sd)}"


def _print_sweep(result: Sweep) -> None:
    console = _stdout()
    policies = [figures for cell in result.cells for figures in cell.result.policies]
    shown = [
        measure
        for measure in measured(policies)
        if measure.key
        in ("cost_vs_on_demand", "cost_vs_omniscient", "availability", "latency_p99_s", "failed_ratio")
    ]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for key in result.cells[0].values:
        table.add_column(key, justify="right", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    for measure in shown:
        table.add_column(measure.heading, justify="right")
    for cell in result.cells:
        values = [str(value) for value in written(cell.values).values()]
        for figures in cell.result.policies:
            table.add_row(*values, Text(figures.policy), *(_cell(figures, measure) for measure in shown))
    console.print(table)
    for note in dict.fromkeys(note for cell in result.cells for note in cell.result.scenario.notes):
        console.print(Text(f"note: {note}", style="dim"))


def _stdout() -> Console:
    width = None if sys.stdout.isatty() else _WIDE_ENOUGH
    return Console(width=width, highlight=False, soft_wrap=False)


# Decisions


def _print_decisions(played: Replay, most: int) -> None:
    console = _stdout()
    console.print(
        f"\nThe first of {len(played.outcome.decisions)} decisions in {title(played)}; launches that are refused "
        "again and again are told once:"
    )
    for told in story(played.outcome)[:most]:
        console.print(Text(told.line()))


def _decisions_json(played: Replay, most: int) -> dict[str, Any]:
    return {
        "policy": played.policy,
        "window": played.window,
        "start_s": played.start_s,
        "decisions": [
            {
                "at": clock(told.decision.at_s),
                "at_s": told.decision.at_s,
                "what": told.decision.what,
                "zone": told.decision.zone,
                "market": str(told.decision.market),
                "rule": told.decision.rule,
                "reason": told.decision.reason,
                "refused": told.refused,
                "again": told.again,
            }
            for told in story(played.outcome)[:most]
        ],
    }
