"""One measurement: what the load generator saw and what it cost the target. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.balancer.processes import Cost
from benchmarks.balancer.scenarios import Scenario

_CROWDED = 0.25
_MILLI = 1e3


@dataclass(frozen=True, slots=True)
class Measurement:
    """The figures of one target under one load, by name; and what was wrong with the answers."""

    figures: Mapping[str, float]
    faults: str = ""
    crowded: bool = False
    """The target was kept waiting for its core for so long that the figures mean little."""


@dataclass(slots=True)
class Measurements:
    """All of a run: of each target and scenario one a round, and why there is none."""

    rounds: dict[tuple[str, str], list[Measurement]] = field(default_factory=dict)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, target: str, scenario: str, measurement: Measurement) -> None:
        """Keep one round's."""
        self.rounds.setdefault((target, scenario), []).append(measurement)

    def lack(self, target: str, scenario: str, why: str) -> None:
        """Say why something could not be measured."""
        self.missing[target, scenario] = why

    def of(self, target: str, scenario: str) -> list[Measurement]:
        """Every round's, in order."""
        return self.rounds.get((target, scenario), [])

    def why_missing(self, target: str, scenario: str) -> str:
        """Why there is nothing."""
        return self.missing.get((target, scenario), "not asked for")


class LoadError(Exception):
    """The load generator gave no figures; says what it gave."""


def report(output: str) -> dict[str, Any]:
    """What the load generator says in its last line.

    Raises:
        LoadError: That is no report.
    """
    lines = output.strip().splitlines()
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise LoadError(f"the load generator said {output[-200:]!r}") from None
    if not isinstance(said, dict) or "latency" not in said:
        raise LoadError(f"the load generator said {lines[-1][:200]!r}")
    return said


def measurement(
    scenario: Scenario, said: Mapping[str, Any], cost: Cost | None, memory_mib: float | None
) -> Measurement:
    """The figures of a run; ``cost`` is None where nothing stood between the load and the engine."""
    work = said["events"] if scenario.streams or not scenario.complete else said["done"]
    figures = {
        "done": float(said["done"]),
        "work_per_s": work / said["wall_s"],
        "p50_ms": said["latency"]["p50_ms"],
        "p99_ms": said["latency"]["p99_ms"],
        "first_byte_p50_ms": said["first_byte"]["p50_ms"],
        "first_byte_p99_ms": said["first_byte"]["p99_ms"],
        "gap_p99_ms": said["gap"]["p99_ms"],
    }
    crowded = False
    if cost is not None and cost.cpu_s > 0:
        figures |= {"cpu_s": cost.cpu_s, "work_per_cpu_s": work / cost.cpu_s}
        if work:
            figures["cpu_us_each"] = cost.cpu_s / work * 1e6
        crowded = cost.waited_s > _CROWDED * said["wall_s"]
    if memory_mib is not None:
        figures["memory_mib"] = memory_mib
    return Measurement(figures, faults(scenario, said), crowded)


def faults(scenario: Scenario, said: Mapping[str, Any]) -> str:
    """What was wrong with the answers; empty where nothing was."""
    found = [f"{said[kind]} {kind}" for kind in ("failed", "wrong") if said[kind]]
    if scenario.streams and scenario.complete and said["done"] + said["failed"] + said["wrong"] < scenario.streams:
        found.append(f"{scenario.streams - said['done'] - said['failed'] - said['wrong']} unfinished")
    if not found:
        return ""
    return ", ".join(found) + (f" ({said['example']})" if said["example"] else "")
