"""Putting one load on one target, pinned apart from each other."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.balancer.asking import wait_engine, wait_ready
from benchmarks.balancer.compiled import program
from benchmarks.balancer.measured import Measurement, measurement, report
from benchmarks.balancer.places import BENCH, ENGINE_PORT, REPLICAS, Cores
from benchmarks.balancer.processes import cost, pss_mib, running
from benchmarks.balancer.scenarios import Scenario
from benchmarks.balancer.targets import RUN, Start

_SETTLE_S = 0.3
_GRACE_S = 15.0
"""How much longer than it was told to the load generator may take to end."""

LOGS = BENCH / "logs"


@contextmanager
def engine(cores: Cores) -> Iterator[None]:
    """The replicas, fresh."""
    LOGS.mkdir(parents=True, exist_ok=True)
    command = [str(program("engine")), str(ENGINE_PORT), str(REPLICAS)]
    with running(command, core=cores.load, log=LOGS / "engine.log"):
        wait_engine()
        yield


@contextmanager
def target(name: str, start: Start, cores: Cores) -> Iterator[int]:
    """A target that is ready; gives its pid.

    Raises:
        NotReadyError: It does not answer as it should; its log says why.
    """
    with running(start.command, core=cores.target, log=LOGS / f"{name}.log", env=start.env, cwd=RUN) as process:
        wait_ready(start, alive=lambda: process.poll() is None)
        time.sleep(_SETTLE_S)
        yield process.pid


@contextmanager
def load(port: int, words: Sequence[str], most_s: float, cores: Cores) -> Iterator["subprocess.Popen[str]"]:
    """The load generator, under way."""
    command = [str(program("load")), "--port", str(port), "--seconds", f"{most_s:g}", *words]
    with running(command, core=cores.load) as process:
        yield process


def measure(scenario: Scenario, port: int, pid: int | None, cores: Cores) -> Measurement:
    """One run of one scenario.

    Raises:
        LoadError: The load generator gave no figures.
    """
    before = None if pid is None else cost(pid)
    memory_mib = None
    with load(port, scenario.load, scenario.most_s, cores) as process:
        if scenario.memory_at_s is not None and pid is not None:
            time.sleep(scenario.memory_at_s)
            memory_mib = pss_mib(pid)
        output = said(process, scenario.most_s)
    spent = None if pid is None or before is None else cost(pid).since(before)
    return measurement(scenario, report(output), spent, memory_mib)


def said(process: "subprocess.Popen[str]", most_s: float) -> str:
    """All that a load generator says; nothing where it does not end soon after ``most_s``."""
    try:
        return process.communicate(timeout=most_s + _GRACE_S)[0]
    except subprocess.TimeoutExpired:
        return ""
