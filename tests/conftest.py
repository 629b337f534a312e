"""What several test files need: a short directory, small specs on the local cloud, patience with a limit."""

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from hedgeserve.core import Service
from hedgeserve.spec import Spec
from hedgeserve.specfile import parse_spec

# A busy machine draws slowly; that says nothing about the code.
# The same cases each time, so that what has passed passes; who searches for more says for how long.
settings.register_profile(
    "house",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="HEDGESERVE_FUZZ_SECONDS" not in os.environ,
)
settings.load_profile("house")

# pytest-asyncio asks for "the" event loop, which makes one that nobody closes; now there is none to ask for.
asyncio.set_event_loop(None)

SMALL = """
[service]
name = "small"
listen = "{listen}"
{service}
state_dir = "{state}"

[model]
id = "demo"
engine = "demo"
args = {args}

[replicas]
{replicas}

[hedge]
policy = "spothedge"
overprovision = {overprovision}
fallback = {fallback}
rebalance_below = 1
retry_delay = "{retry_delay}"
on_demand_hold = "1s"
notice_poll = "200ms"

[probe]
interval = "500ms"
timeout = "2s"
initial_delay = "{initial_delay}"

[timeouts]
boot = "{boot}"
drain = "10s"
queue = "30s"

[[pools]]
cloud = "local"
zones = {zones}
markets = {markets}
{pools}
[local]
boot_time = "{boot_time}"
{local}
"""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A verb that runs in this process sets logging up for itself; the next test must not inherit it."""
    known, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**known)
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a Unix socket, whatever the test is called."""
    path = Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def small_toml(directory: Path, **changes: Any) -> str:
    """A model.toml with quick replicas on the local cloud: one spot replica unless told otherwise."""
    values = {
        "state": str(directory / "state"),
        "listen": "127.0.0.1:0",
        "service": "",
        "args": '["--load-time", "0s", "--tokens-per-second", "100"]',
        "replicas": "count = 1",
        "overprovision": 0,
        "fallback": "false",
        "retry_delay": "500ms",
        "initial_delay": "20s",
        "boot": "20s",
        "zones": '["east/a", "east/b", "west/a"]',
        "markets": '["spot", "on_demand"]',
        "pools": "",
        "boot_time": "0s",
        "local": "",
    }
    return SMALL.format(**{**values, **changes})


def small_spec(directory: Path, **changes: Any) -> Spec:
    """The same, read."""
    return parse_spec(small_toml(directory, **changes), "small.toml", directory, {})


async def eventually(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], *, within_s: float = 30.0, what: str = ""
) -> Any:
    """The first true thing that the condition returns; fails when there is none within the limit."""
    limit_s = time.monotonic() + within_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > limit_s:
            raise AssertionError(f"still not so after {within_s:g} s: {what or condition}")
        await asyncio.sleep(0.02)


def replicas(service: Service, *states: str) -> list[dict[str, Any]]:
    """The service's replicas, or those in one of these states."""
    return [replica for replica in service.status()["replicas"] if not states or replica["state"] in states]


async def messages(service: Service, *kinds: str, replica: str | None = None) -> list[str]:
    """The sentences of the journal, or those of these kinds, oldest first."""
    events = await service.events(limit=1000, replica=replica)
    return [event["message"] for event in events if not kinds or event["kind"] in kinds]


def processes_of(directory: Path) -> list[int]:
    """Processes whose command line or environment names this directory (a VM's processes all do)."""
    found = []
    needle = os.fsencode(directory)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if needle in told:
                found.append(int(entry.name))
    return found
