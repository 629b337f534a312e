"""Where the benchmark's files, ports and cores are."""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / ".bench"
"""Everything that the benchmark makes: programs, peers, configurations, logs. Git ignores it."""

COMPILED = ROOT / "build" / "compiled"
"""A copy of HedgeServe whose data path is compiled (``scripts/compile``)."""

REPLICAS = 8
ENGINE_PORT = 19101
"""Of the first replica; the others follow, and the engine's control is on the port before it."""

TARGET_PORT = 19201
TLS_PORT = 19202
SPARE_PORT = 19203
"""For what a target wants beside its endpoint: metrics, a stub of its controller."""

REPLICA_URLS = tuple(f"http://127.0.0.1:{ENGINE_PORT + number}" for number in range(REPLICAS))


class CoresError(Exception):
    """This machine cannot keep the target apart from its load."""


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the target alone, another for its load and the engine."""

    target: int
    load: int


def cores() -> Cores:
    """The first two cores that this process may use.

    Raises:
        CoresError: There is only one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise CoresError(
            "the benchmark needs two cores, one for the balancer and one for its load; "
            f"this process may use only {usable}"
        )
    return Cores(*usable[:2])
