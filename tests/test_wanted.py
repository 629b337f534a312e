"""What a service wants outlives its controller: the target, the idle time, and being woken in hours of sleep."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from hedgeserve.core import Service
from hedgeserve.errors import StateDirectoryError
from hedgeserve.hedge import Autoscaler, Bounds, LoadSignal, Pause, Rest, WindDown
from hedgeserve.spec import ReplicasSpec
from hedgeserve.specfile import parse_spec
from hedgeserve.store import Store
from hedgeserve.tables.wants import StoredWant
from hedgeserve.wanted import Wanted
from tests.conftest import eventually, small_toml

NIGHT = datetime(2026, 11, 25, 23, 0, tzinfo=UTC)
SCALED = 'min = 0\nmax = 4\ntarget_requests_per_second = 1.0\nidle_after = "10m"'
SLEEP = '[schedule]\nsleep = "22:00-07:00"\nwake_on_request = true\nawake_for = "10m"\n'


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "journal.db")
    yield opened
    await opened.close()


class Run:
    """One run of a controller, as far as its wants go."""

    def __init__(self, store: Store, directory: Path) -> None:
        toml = small_toml(directory).replace("count = 1", SCALED) + SLEEP
        spec = parse_spec(toml, "small.toml", directory, {})
        self.autoscaler, self.winddown = Autoscaler(spec.replicas), WindDown(spec.schedule, spec.replicas)
        self.wanted = Wanted(spec, store, self.autoscaler, self.winddown)
        self.lease_s = spec.timeouts.lease

    def decide(self, *, arrived: int = 0, queued: int = 0, later_s: float = 0.0) -> int:
        now_s = asyncio.get_running_loop().time() + later_s
        return self.autoscaler.decide(LoadSignal(now_s, arrived, queued, 0), Bounds(0, 4)).target


async def test_a_controller_that_is_killed_goes_on_with_its_target(store: Store, tmp_path: Path) -> None:
    """It does not let go what runs because it has seen no request itself yet."""
    first = Run(store, tmp_path)
    assert await first.wanted.recall(NIGHT) is None
    target = first.decide(arrived=1, queued=1)
    await first.wanted.keep(NIGHT, target)
    second = Run(store, tmp_path)
    assert await second.wanted.recall(NIGHT + timedelta(seconds=5)) == target == 1
    assert second.decide() == 1
    assert second.decide(later_s=590) == 1
    assert second.decide(later_s=596) == 0, "idle since before the restart"


async def test_what_was_wanted_too_long_ago_means_nothing(store: Store, tmp_path: Path) -> None:
    """No VM has outlived it."""
    first = Run(store, tmp_path)
    await first.wanted.keep(NIGHT, first.decide(arrived=1, queued=1))
    second = Run(store, tmp_path)
    assert await second.wanted.recall(NIGHT + timedelta(seconds=second.lease_s + 1)) is None
    assert second.decide() == 0


async def test_who_was_woken_in_its_sleep_is_awake_after_a_restart(store: Store, tmp_path: Path) -> None:
    """For as long as it would have been; a pause stands above it."""
    first = Run(store, tmp_path)
    woken = first.winddown.decide(NIGHT, LoadSignal(0, 1, 1, 0), boot_s=None)
    assert woken.rest is Rest.AWAKE
    await first.wanted.keep(NIGHT, 1)
    minute = timedelta(minutes=1)
    for later, rest in ((minute, Rest.AWAKE), (9 * minute, Rest.AWAKE), (11 * minute, Rest.ASLEEP)):
        run = Run(store, tmp_path)
        await run.wanted.recall(NIGHT + later)
        standing = run.winddown.decide(NIGHT + later, LoadSignal(0, 0, 0, 0), boot_s=None)
        assert standing.rest is rest
        assert ("woken by a request" in standing.reason) == (rest is Rest.AWAKE)
    paused = Run(store, tmp_path)
    await paused.wanted.recall(NIGHT + minute)
    paused.winddown.pause(Pause(NIGHT))
    await paused.wanted.keep(NIGHT + minute, 0)
    kept = await store.load_want("small")
    assert kept is not None
    assert kept.awake_until is None


async def test_a_rest_leaves_the_disk_alone_and_a_load_writes_now_and_then(store: Store, tmp_path: Path) -> None:
    """A change at once; that it lasts, every 15 seconds."""
    run, at = Run(store, tmp_path), NIGHT

    async def kept_at(target: int, later_s: float) -> float:
        await run.wanted.keep(at + timedelta(seconds=later_s), target)
        kept = await store.load_want("small")
        assert kept is not None
        return (kept.at - at).total_seconds()

    run.decide(arrived=1, queued=1)
    assert [await kept_at(1, later_s) for later_s in (0, 5, 14, 16, 20)] == [0, 0, 0, 16, 16]
    assert [await kept_at(2, later_s) for later_s in (21, 22)] == [21, 21]
    for later_s in (23, 60, 3600):
        run.autoscaler.go_on(asyncio.get_running_loop().time(), target=0, idle_s=later_s)
        assert await kept_at(0, later_s) == 23
    await run.wanted.forget()
    assert await store.load_want("small") is None


async def test_a_full_disk_is_tried_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serving goes on from memory meanwhile."""
    run = Run(store, tmp_path)

    async def full(service: str, want: StoredWant) -> None:
        raise StateDirectoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "save_want", full)
        await run.wanted.keep(NIGHT, 1)
    assert await store.load_want("small") is None
    await run.wanted.keep(NIGHT, 1)
    assert await store.load_want("small") is not None


def test_the_autoscaler_keeps_an_earlier_target_within_its_bounds() -> None:
    """And lets it go as the load says, after the delay."""
    spec = ReplicasSpec(min=1, max=3, target_requests_per_second=1.0, downscale_delay="5m", upscale_delay="1m")
    autoscaler = Autoscaler(spec)
    autoscaler.go_on(100.0, target=7, idle_s=0.0)
    assert autoscaler.decide(LoadSignal(100.0, 0, 0, 0)).target == 3
    assert autoscaler.decide(LoadSignal(399.0, 0, 0, 0)).target == 3
    assert autoscaler.decide(LoadSignal(401.0, 0, 0, 0)).target == 1


async def test_a_request_that_wakes_is_on_disk_before_its_vm_is_launched(short_dir: Path) -> None:
    """So that a kill at any moment loses no waking; an orderly end, after which no VM is left, begins anew."""
    toml = small_toml(short_dir).replace("count = 1", SCALED)
    path = short_dir / "state" / "journal.db"

    async def want() -> StoredWant | None:
        other = await Store.open(path)
        try:
            return await other.load_want("small")
        finally:
            await other.close()

    async with (
        Service(parse_spec(toml, "small.toml", short_dir, {}), environ={}) as service,
        aiohttp.ClientSession() as session,
    ):
        body: dict[str, Any] = {"model": "demo", "prompt": "A fox", "max_tokens": 4}
        asking = asyncio.create_task(session.post(f"{service.url}/v1/completions", json=body))
        await eventually(lambda: service.status()["replicas"])
        kept = await want()
        assert kept is not None
        assert kept.target == 1
        events = await service.events(limit=1000)
        [launch] = [event for event in events if event["kind"] == "launch"]
        assert kept.busy_at <= kept.at <= datetime.fromisoformat(launch["at"]) + timedelta(milliseconds=1)
        async with await asking as response:
            assert response.status == 200
    assert await want() is None
