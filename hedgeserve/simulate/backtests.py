"""The back-test: policies times windows, each simulated by itself, and what they came to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from hedgeserve.errors import BacktestError
from hedgeserve.hedge import Autoscaler, Budget, WindDown
from hedgeserve.simulate.aggregate import (
    MEASURES,
    PolicyFigures,
    WindowFigures,
    figures_of,
    over_windows,
)
from hedgeserve.simulate.fromspec import model_scenario
from hedgeserve.simulate.omniscient import OmniscientOutcome, omniscient
from hedgeserve.simulate.outcome import FleetOutcome
from hedgeserve.simulate.parallel import Progress, Task, run_tasks
from hedgeserve.simulate.policies import OMNISCIENT, check_policies, make
from hedgeserve.simulate.scenario import (
    Demand,
    PaperSetting,
    PoissonRequests,
    Requests,
    Scenario,
    paper_scenario,
    window_starts_s,
)
from hedgeserve.simulate.serving import RequestLoad
from hedgeserve.simulate.traces import TraceSet
from hedgeserve.simulate.workload import Workload, poisson
from hedgeserve.simulate.world import run
from hedgeserve.spec import BudgetSpec, Spec

Steps = tuple[tuple[float, int], ...]
"""A step function: (seconds since the window began, value) at each change."""

World = PaperSetting | Spec | Scenario
"""What can be back-tested: the paper's world, that of a model.toml, or one that was put together by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """What came of a back-test: ``policies`` in the order asked, each over the same ``windows``."""

    scenario: Scenario
    windows: int
    starts_s: tuple[float, ...]
    seed: int
    policies: tuple[PolicyFigures, ...]
    notes: tuple[str, ...]

    def policy(self, name: str) -> PolicyFigures:
        """The figures of one policy.

        Raises:
            BacktestError: It was not tried.
        """
        for figures in self.policies:
            if figures.policy == name:
                return figures
        raise BacktestError(f"{name} was not tried; {', '.join(one.policy for one in self.policies)} were")


def as_scenario(traces: TraceSet, world: World, *, requests: Requests | None = None) -> Scenario:
    """The scenario of a world on these traces; one that is a scenario already is left as it is."""
    if isinstance(world, Scenario):
        return world
    if isinstance(world, Spec):
        return model_scenario(world, traces, requests=requests)
    return paper_scenario(traces, world, requests=requests)


def backtest(
    traces: TraceSet,
    world: World,
    *,
    policies: Sequence[str] | None = None,
    windows: int = 20,
    seed: int = 0,
    requests: Requests | None = None,
    jobs: int | None = 1,
    progress: Progress | None = None,
) -> Backtest:
    """Try policies on windows of recorded capacity.

    ``world`` is :class:`PaperSetting`, or the spec of a model.toml. ``policies`` None tries those of the world.
    The windows are drawn with ``seed``; the same arguments give the same results, whatever the number of
    ``jobs`` (processes; None: one a core; more than one needs ``if __name__ == "__main__"`` in a script).

    Raises:
        BacktestError: A policy is unknown, the traces are shorter than a window, or do not fit the pools.
    """
    scenario = as_scenario(traces, world, requests=requests)
    return backtests([scenario], policies=policies, windows=windows, seed=seed, jobs=jobs, progress=progress)[0]


def backtests(
    scenarios: Sequence[Scenario],
    *,
    policies: Sequence[str] | None = None,
    windows: int = 20,
    seed: int = 0,
    jobs: int | None = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> list[Backtest]:
    """Several back-tests at once, as :func:`backtest` does each; ``scheduler``: on a Dask cluster instead."""
    if windows < 1:
        raise BacktestError(f"{windows} windows tell nothing; ask for 1 or more")
    if jobs is not None and jobs < 1:
        raise BacktestError(f"nothing can be done by {jobs} processes; ask for 1 or more")
    plans: list[tuple[Scenario, tuple[str, ...], tuple[float, ...]]] = []
    tasks: list[Task] = []
    for number, scenario in enumerate(scenarios):
        names = tuple(dict.fromkeys(policies if policies is not None else scenario.policies))
        check_policies(names)
        starts_s = window_starts_s(scenario, windows=windows, seed=seed)
        plans.append((scenario, names, starts_s))
        tasks += [
            Task(number, name, window, start_s, seed) for name in names for window, start_s in enumerate(starts_s)
        ]
    done = iter(
        run_tasks(
            figures,
            scenarios,
            tasks,
            jobs=jobs or available_cores(),
            scheduler=scheduler,
            progress=progress,
        )
    )
    results: list[Backtest] = []
    for scenario, names, starts_s in plans:
        found = {name: [next(done) for _ in starts_s] for name in names}
        results.append(_summed_up(scenario, starts_s, windows, seed, found))
    return results


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _summed_up(
    scenario: Scenario,
    starts_s: tuple[float, ...],
    asked: int,
    seed: int,
    found: dict[str, list[WindowFigures]],
) -> Backtest:
    if OMNISCIENT in found:
        best_usd = [one.cost_usd for one in found[OMNISCIENT]]
        found = {
            name: [
                replace(one, cost_vs_omniscient=one.cost_usd / best if best else None)
                for one, best in zip(windows, best_usd, strict=True)
            ]
            for name, windows in found.items()
        }
    notes = list(scenario.notes)
    if len(starts_s) < asked:
        notes.append("the traces are just as long as a window: there is only one")
    said = {f"{name}: {note}": None for name, windows in found.items() for one in windows for note in one.notes}
    return Backtest(
        scenario=scenario,
        windows=len(starts_s),
        starts_s=starts_s,
        seed=seed,
        policies=tuple(over_windows(name, windows) for name, windows in found.items()),
        notes=tuple(notes + list(said)),
    )


# One window


def figures(scenario: Scenario, task: Task) -> WindowFigures:
    """What one policy comes to in one window."""
    if task.policy == OMNISCIENT:
        targets = targets_of(scenario, task)
        best = solve_window(scenario, task, targets)
        alone_usd = _on_demand_usd(scenario, targets)
        return WindowFigures(
            window=task.window,
            start_s=task.start_s,
            cost_usd=best.cost_usd,
            cost_vs_on_demand=best.cost_usd / alone_usd if alone_usd else None,
            availability=best.availability,
            on_demand_hours=best.on_demand_h,
            notes=() if best.integral else ("no whole numbers solve a window: a bound, but no schedule",),
        )
    outcome = run_window(scenario, task)
    alone_usd = _on_demand_usd(scenario, outcome.targets)
    return figures_of(outcome, window=task.window, start_s=task.start_s, on_demand_usd=alone_usd)


def targets_of(scenario: Scenario, task: Task) -> Steps:
    """The targets of a window: the scenario's own, or what hours and requests ask for where all are served."""
    if scenario.fixed:
        return ((0.0, scenario.target),)
    return run_window(scenario, replace(task, policy="on-demand")).targets


def _on_demand_usd(scenario: Scenario, targets: Steps) -> float | None:
    """What the targets cost in the whole window at the cheapest on-demand price."""
    price = scenario.on_demand_usd_per_hour
    if price is None:
        return None
    ends = [*(time_s for time_s, _ in targets[1:]), scenario.window_s]
    replica_s = sum((end - begin) * count for (begin, count), end in zip(targets, ends, strict=True))
    return replica_s / 3600 * price


def run_window(scenario: Scenario, task: Task) -> FleetOutcome:
    """One window under a policy that acts without knowing what comes, with everything that happened."""
    policy = make(task.policy, scenario, seed=_seed(task))
    setting = scenario.setting(start_s=task.start_s, seed=_seed(task))
    demand = scenario.demand
    return run(
        policy,
        setting,
        autoscaler=Autoscaler(scenario.replicas) if demand is not None and demand.scaled else None,
        load=None if demand is None else _load(scenario, demand, task),
        winddown=None if scenario.schedule is None else WindDown(scenario.schedule, scenario.replicas),
        budget=None if scenario.budget is None else _budget(scenario, scenario.budget),
        begins_at=scenario.begins_at + timedelta(seconds=task.start_s),
    )


def _budget(scenario: Scenario, spec: BudgetSpec) -> Budget:
    """The caps as production holds them; a drain ends with a tick."""
    return Budget(spec, drain_s=scenario.drain_s + 2 * scenario.tick_s, ceilings={})


def _load(scenario: Scenario, demand: Demand, task: Task) -> RequestLoad:
    replicas = scenario.replicas
    return RequestLoad(
        _requests(scenario, demand, task),
        demand.service,
        warm_up_s=scenario.warm_up_s,
        queue_timeout_s=demand.queue_timeout_s,
        total_timeout_s=demand.total_timeout_s,
        max_queue=demand.max_queue,
        on_loss=demand.on_loss,
        sample_s=scenario.tick_s,
        settle_s=replicas.window + max(replicas.upscale_delay, replicas.downscale_delay),
        seed=_seed(task),
    )


def _requests(scenario: Scenario, demand: Demand, task: Task) -> Workload:
    if isinstance(demand.requests, PoissonRequests):
        rate = demand.requests.rate_per_s
        return poisson(rate, scenario.window_s, _seed(task), clients=demand.clients)
    return demand.requests.window(task.start_s, scenario.window_s)


def solve_window(scenario: Scenario, task: Task, targets: Steps) -> OmniscientOutcome:
    """The same window in hindsight: the least that these targets can cost."""
    return omniscient(scenario.setting(start_s=task.start_s, seed=_seed(task)), targets)


def _seed(task: Task) -> int:
    """The seed of one window: another for each, the same for all policies."""
    return task.seed * 1_000_003 + task.window


__all__ = [
    "MEASURES",
    "Backtest",
    "World",
    "as_scenario",
    "available_cores",
    "backtest",
    "backtests",
    "figures",
    "run_window",
    "solve_window",
    "targets_of",
]
