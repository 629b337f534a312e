"""How long the simulator takes: CPU and wall time in this process, one thread."""

import cProfile
import io
import pstats
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import click

from benchmarks.markdown import Section, measured, table
from benchmarks.reproduction import NAMES
from hedgeserve.simulate import PaperSetting, PoissonRequests, TraceSet, run
from hedgeserve.simulate.backtests import available_cores, run_window
from hedgeserve.simulate.parallel import Task
from hedgeserve.simulate.policies import make
from hedgeserve.simulate.scenario import Scenario, paper_scenario, window_starts_s
from hedgeserve.simulate.synth import preset, synthesize
from hedgeserve.simulate.traces import ZoneTrace

DAYS, SEED = 10, 0
"""Simulated days whose mean is taken."""

REQUESTS_A_DAY = 13_000
FLEET, ZONES, FLEET_DAYS = 1000, 60, 30
LARGE = "calm"
TIMES_THE_PRESET = 10
"""The preset has at most four VMs in a zone: so many times as many, that the fleet finds room."""

LONGEST_S, PROFILED_S = 70.0, 15.0
DAY_S = 86400.0
HEADINGS = ("what", "policy", "CPU s", "wall s", "goal, CPU s", "verdict")


class _TooLong(Exception):
    """A run has had its time; ``reached_s`` is how far it came in the simulated world."""

    def __init__(self, reached_s: float) -> None:
        self.reached_s = reached_s


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run took, in seconds; ``note`` says where it was stopped."""

    cpu_s: float
    wall_s: float
    note: str = ""


def speed(records: Mapping[str, TraceSet]) -> Section:
    """The table; where a goal is missed, a profile on standard output."""
    section = Section("speed")
    section.add(
        measured(
            section.name,
            f"{available_cores()} cores, one used; a day: the mean of {DAYS} windows, seed {SEED}; notice 120 s",
        )
    )
    rows = []
    for trace, record in records.items():
        scenario = paper_scenario(record, PaperSetting(notice_s=120.0))
        for policy, goal_s in (("spothedge", 0.020), ("forecast", 0.100)):
            what = f"a day, {NAMES[trace]}"
            rows.append(_row(section, what, policy, goal_s, partial(_days, scenario, policy)))
    for trace, record in records.items():
        requests = PoissonRequests(REQUESTS_A_DAY / DAY_S)
        scenario = paper_scenario(record, PaperSetting(notice_s=120.0), requests=requests)
        what = f"a day with {REQUESTS_A_DAY:,} requests, {NAMES[trace]}"
        rows.append(_row(section, what, "spothedge", 0.5, partial(_days, scenario, "spothedge")))
    scenario = _large()
    for policy in ("spothedge", "forecast"):
        what = f"{FLEET:,} replicas in {ZONES} zones for {FLEET_DAYS} days"
        some = partial(bounded, scenario, policy, PROFILED_S)
        rows.append(_row(section, what, policy, 60.0, partial(bounded, scenario, policy, LONGEST_S), some))
    section.add(table(HEADINGS, rows, words=2))
    return section


def _row(
    section: Section,
    what: str,
    policy: str,
    goal_s: float,
    measure: Callable[[], Timing],
    some: Callable[[], Timing] | None = None,
) -> list[str]:
    """One measurement; ``some`` of it is enough for a profile."""
    timing = measure()
    missed = [f"{timing.cpu_s:.3g} s{timing.note}"] if timing.cpu_s > goal_s or timing.note else []
    if missed:
        click.echo(f"{what}, {policy}: {missed[0]} of CPU time, the goal is {goal_s:g} s")
        click.echo(profile(some or measure))
    verdict = section.judge(f"{what}, {policy}", missed)
    return [what, f"`{policy}`", f"{timing.cpu_s:.3f}", f"{timing.wall_s:.3f}", f"{goal_s:g}", verdict]


def _days(scenario: Scenario, policy: str) -> Timing:
    starts_s = window_starts_s(scenario, windows=DAYS, seed=SEED)
    tasks = [Task(0, policy, number, start_s, SEED) for number, start_s in enumerate(starts_s)]
    run_window(scenario, tasks[0])  # imports, caches
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for task in tasks:
        run_window(scenario, task)
    return Timing((time.process_time() - cpu_s) / DAYS, (time.perf_counter() - wall_s) / DAYS)


def _large() -> Scenario:
    window_s = FLEET_DAYS * DAY_S
    made = synthesize(preset(LARGE), window_s, SEED, zones=ZONES)
    zones = tuple(ZoneTrace(one.zone, one.gap_s, one.counts * TIMES_THE_PRESET) for one in made)
    setting = PaperSetting(target=FLEET, window_s=window_s, notice_s=120.0)
    return paper_scenario(replace(made, zones=zones), setting)


def bounded(scenario: Scenario, policy: str, most_s: float) -> Timing:
    """One window from the record's begin, stopped after so much CPU time."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    look_at_s = wall_s

    def on_tick(now_s: float) -> None:
        nonlocal look_at_s
        if time.perf_counter() < look_at_s:  # to ask for CPU time takes some: milliseconds on a busy machine
            return
        look_at_s = time.perf_counter() + 0.5
        if time.process_time() - cpu_s > most_s:
            raise _TooLong(now_s)

    note = ""
    try:
        run(make(policy, scenario, seed=SEED), scenario.setting(start_s=0.0, seed=SEED), on_tick=on_tick)
    except _TooLong as stopped:
        note = f", stopped on day {stopped.reached_s / DAY_S:.1f}"
    return Timing(time.process_time() - cpu_s, time.perf_counter() - wall_s, note)


def profile(measure: Callable[[], Timing]) -> str:
    """The ten functions that take longest by themselves."""
    profiler = cProfile.Profile()
    profiler.enable()
    measure()
    profiler.disable()
    out = io.StringIO()
    pstats.Stats(profiler, stream=out).strip_dirs().sort_stats("tottime").print_stats(10)
    return out.getvalue()
