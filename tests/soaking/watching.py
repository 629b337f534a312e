"""What is measured of the controller while the load runs, and what it says itself in the end."""

import asyncio
import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

_EVERY_S = 5.0
_SAMPLE = re.compile(r"^hedgeserve_(\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'"([^"]*)"')
_TOLD = (
    "resumptions_total",
    "streams_moved_total",
    "replayed_tokens_total",
    "answer_tokens_total",
    "upstream_failures_total",
    "preemptions_total",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The controller at one time."""

    rss_mib: float
    replicas: int
    tasks: int
    descriptors: int


@dataclass(slots=True)
class Watched:
    """What was seen of the controller."""

    samples: list[Sample] = field(default_factory=list)
    metrics: Counter[str] = field(default_factory=Counter)
    weather: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0


async def ask_admin(socket: Path, path: str) -> Any:
    """What the controller says on its own socket."""
    connector = aiohttp.UnixConnector(path=str(socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://admin{path}") as response,
    ):
        return await response.json()


async def wait_for_url(socket: Path) -> str:
    """The endpoint, once a first replica is ready."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        await asyncio.sleep(0.1)
        try:
            status = await ask_admin(socket, "/admin/v1/status")
        except aiohttp.ClientError:
            continue
        if status["ready"]:
            return str(status["url"])
    raise SystemExit("no replica became ready within a minute")


async def watch(process: psutil.Process, socket: Path, watched: Watched) -> None:
    """Sample the controller's memory, tasks and descriptors until cancelled."""
    while True:
        status = await ask_admin(socket, "/admin/v1/status")
        rss_mib = process.memory_info().rss / 2**20
        # Without the two connections of each request under way: their number goes with the machine's other load.
        descriptors = process.num_fds() - 2 * int(status["in_flight"])
        watched.samples.append(Sample(rss_mib, len(status["replicas"]), int(status["tasks"]), descriptors))
        await asyncio.sleep(_EVERY_S)


async def read_metrics(url: str) -> Counter[str]:
    """What it has counted, by name and labels, as far as the report tells of it."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        text = await response.text()
    found: Counter[str] = Counter()
    for name, labels, value in _SAMPLE.findall(text):
        if name in _TOLD and float(value):
            found[" ".join((name, *_LABEL.findall(labels)))] += int(float(value))
    return found


def read_weather(log: Path) -> Counter[str]:
    """How VMs were taken back, by the local cloud's own word."""
    found: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if '"local_preemption"' in line:
            said = json.loads(line)
            kind = "with notice" if said["notice_s"] else "vanished silently" if said["silent"] else "killed"
            found[kind] += 1
    return found


def processes_of(state: Path) -> list[str]:
    """Processes that name the state directory in their command line or environment."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            told = " ".join(process.info["cmdline"] or []) + " ".join(process.environ().values())
        except (psutil.Error, OSError):
            continue
        if str(state) in told and process.pid != os.getpid():
            found.append(f"{process.pid}: {' '.join(process.info['cmdline'] or [])[:120]}")
    return found
