"""Measure the balancer beside its peers, and write what came out: ``python -m benchmarks.balancer``.

Exits with 1 where a bar was missed, or a peer that was asked for could not be measured.
"""

import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

import click

from benchmarks.balancer import installed, page
from benchmarks.balancer.asking import NotReadyError
from benchmarks.balancer.bars import BARS, judge
from benchmarks.balancer.compiled import CompileError, program
from benchmarks.balancer.measured import LoadError, Measurement, Measurements
from benchmarks.balancer.measuring import LOGS, engine, measure, target
from benchmarks.balancer.places import ENGINE_PORT, ROOT, Cores, CoresError, cores
from benchmarks.balancer.scenarios import (
    DEFAULT_PEERS,
    DIRECT,
    INTERPRETED,
    NAMES,
    OURS,
    PEERS,
    SCENARIOS,
    VANISH,
    Scenario,
)
from benchmarks.balancer.targets import start
from benchmarks.balancer.vanishing import only_the_victim_serves, vanish
from benchmarks.markdown import put

PAGE = ROOT / "docs" / "benchmarks-balancer.md"


class _Run:
    """The rounds of one run."""

    def __init__(self, names: Sequence[str], peers: Sequence[str], on: Cores) -> None:
        self.scenarios = [scenario for scenario in SCENARIOS if scenario.name in names]
        self.vanishes = VANISH in names
        self.peers = list(peers)
        self.cores = on
        self.measurements = Measurements()

    def round(self, number: int) -> None:
        """Each target once, in an order that turns from round to round."""
        targets = [OURS, *self.peers]
        turn = number % len(targets)
        self._direct(number)
        for name in targets[turn:] + targets[:turn]:
            wanted = [one for one in self.scenarios if name in one.targets and not (one.once and number)]
            for tls in (False, True):
                if some := [one for one in wanted if one.tls is tls]:
                    self._target(number, name, some, tls=tls)
        if self.vanishes:
            self._vanish(number)

    def _direct(self, number: int) -> None:
        wanted = [one for one in self.scenarios if DIRECT in one.targets]
        if wanted:
            with engine(self.cores):
                for scenario in wanted:
                    self._keep(number, DIRECT, scenario.name, measure(scenario, ENGINE_PORT, None, self.cores))

    def _target(self, number: int, name: str, scenarios: Sequence[Scenario], *, tls: bool) -> None:
        try:
            begun = start(name, tls=tls)
            with engine(self.cores), target(name, begun, self.cores) as pid:
                for scenario in scenarios:
                    self._keep(number, name, scenario.name, measure(scenario, begun.port, pid, self.cores))
        except (installed.MissingError, NotReadyError, LoadError, OSError) as error:
            self._lack(name, [one.name for one in scenarios], error)

    def _vanish(self, number: int) -> None:
        try:
            begun = start(OURS)
            with engine(self.cores):
                only_the_victim_serves()
                with target(OURS, begun, self.cores) as pid:
                    self._keep(number, OURS, VANISH, vanish(begun.port, pid, self.cores))
        except (NotReadyError, LoadError, OSError) as error:
            self._lack(OURS, [VANISH], error)

    def _keep(self, number: int, name: str, scenario: str, measurement: Measurement) -> None:
        self.measurements.add(name, scenario, measurement)
        figures = "  ".join(f"{key} {value:.4g}" for key, value in measurement.figures.items())
        wrong = f"  FAULTS {measurement.faults}" if measurement.faults else ""
        crowded = "  (crowded)" if measurement.crowded else ""
        click.echo(f"round {number + 1}  {name:<13} {scenario:<13} {figures}{crowded}{wrong}", err=True)

    def _lack(self, name: str, scenarios: Sequence[str], error: Exception) -> None:
        why = f"{error} (log: {(LOGS / f'{name}.log').relative_to(ROOT)})"
        click.echo(f"{name}: not measured: {why}", err=True)
        for scenario in scenarios:
            if not self.measurements.of(name, scenario):
                self.measurements.lack(name, scenario, str(error))


@click.command(help="Measure the balancer beside its peers on one core, and write docs/benchmarks-balancer.md.")
@click.option(
    "--only", multiple=True, type=click.Choice(NAMES), help="This load (again for more); no page is written."
)
@click.option(
    "--rounds", type=click.IntRange(1, 9), default=3, show_default=True, help="Interleaved; medians count."
)
@click.option(
    "--peers",
    default=",".join(DEFAULT_PEERS),
    show_default=True,
    help=f"Of {', '.join(PEERS)}, separated by commas; none: no peer.",
)
@click.option("--page/--no-page", "writes", default=True, help="Whether a whole run is written into docs.")
def main(only: tuple[str, ...], rounds: int, peers: str, writes: bool) -> None:
    asked = [] if peers == "none" else [peer.strip() for peer in peers.split(",") if peer.strip()]
    unknown = [peer for peer in asked if peer not in PEERS]
    if unknown:
        raise click.UsageError(f"there is no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        on = cores()
        for name in ("engine", "load"):
            program(name)
    except (CoresError, CompileError) as error:
        raise click.ClickException(str(error)) from error
    os.sched_setaffinity(0, {on.load})
    run = _Run(only or NAMES, _installed(asked), on)
    for peer in asked:
        if peer not in run.peers:
            for scenario in run.scenarios:
                run.measurements.lack(peer, scenario.name, "it could not be had on this machine")
    began = time.monotonic()
    for number in range(rounds):
        run.round(number)
    verdicts = [judge(bar, run.measurements) for bar in BARS if bar.scenario in (only or NAMES)]
    tables = [page.verdicts(verdicts)] if verdicts else []
    figures = page.figures(run.measurements, (DIRECT, OURS, *asked))
    click.echo("\n\n".join([*tables, figures]))
    click.echo(f"{rounds} rounds in {time.monotonic() - began:.0f} s", err=True)
    if writes and not only:
        text = "\n\n".join([_stamp(rounds, run.peers), *tables, figures])
        PAGE.write_text(put(PAGE.read_text(), "figures", text))
        click.echo(f"written into {PAGE.relative_to(ROOT)}", err=True)
    if not page.passed(verdicts, run.measurements, asked=asked):
        raise SystemExit(1)


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _installed(asked: Sequence[str]) -> list[str]:
    """The peers that can be had; fetching them takes minutes, the first time."""
    found = []
    for peer in asked:
        try:
            if peer != INTERPRETED:
                installed.program(peer)
        except installed.MissingError as error:
            click.echo(f"{error}; its bars will say so", err=True)
        else:
            found.append(peer)
    return found


def _stamp(rounds: int, peers: Sequence[str]) -> str:
    """When, by which command, on what and against what."""
    command = shlex.join(["python", "-m", "benchmarks.balancer", *sys.argv[1:]])
    versions = [f"{peer} {installed.version(peer)}".strip() for peer in peers if peer != INTERPRETED]
    ours = [
        f"hedgeserve {_version('hedgeserve')} (mypyc {_version('mypy')})",
        f"Python {platform.python_version()}",
    ]
    ours += [f"{name} {_version(name)}" for name in ("uvloop", "httptools", "aiohttp")]
    return (
        f"*{datetime.now(UTC).date().isoformat()}, `{command}`, {rounds} interleaved rounds, medians; "
        f"{_processor()}, {os.cpu_count()} cores, Linux {platform.release()}; {', '.join([*ours, *versions])}.*"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


if __name__ == "__main__":
    main()
