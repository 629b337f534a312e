"""A service at rest on the local cloud: nothing runs, the endpoint says so, and no request is lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hedgeserve import winddown
from hedgeserve.core import Service
from hedgeserve.specfile import parse_spec
from hedgeserve.takedown import reap
from tests.conftest import eventually, messages, processes_of, replicas, small_spec, small_toml

SLEEP = '[schedule]\nsleep = "22:00-07:00"\nlead = "5m"\n'


class Clock:
    """The time of day, as the service is told it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 25, 23, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(winddown, "_now", clock)
    return clock


@asynccontextmanager
async def running(directory: Path, schedule: str = "", **changes: Any) -> AsyncIterator[Service]:
    """A small service with this calendar; that it leaves no process behind is checked at the end."""
    toml = small_toml(directory, **changes) + schedule
    async with Service(parse_spec(toml, "small.toml", directory, {}), environ={}) as service:
        yield service
    assert processes_of(directory) == []


async def ask(service: Service, session: aiohttp.ClientSession, **changes: Any) -> tuple[int, Any, Any]:
    """Status, JSON and headers of one completion."""
    body = {"model": "demo", "prompt": "A fox", "max_tokens": 8, **changes}
    async with session.post(f"{service.url}/v1/completions", json=body) as response:
        return response.status, await response.json(), response.headers


async def test_a_pause_ends_all_vms_and_lets_running_requests_finish(short_dir: Path) -> None:
    """The answer that is under way is whole; the next request is told when to come back."""
    slow = '["--load-time", "0s", "--tokens-per-second", "20"]'
    async with running(short_dir, args=slow) as service, aiohttp.ClientSession() as session:
        await service.wait_ready()
        answering = asyncio.create_task(ask(service, session, max_tokens=20, ignore_eos=True))
        await eventually(lambda: service.status()["in_flight"] == 1)
        await service.pause(for_s=3600.0)
        status, answer, headers = await ask(service, session)
        assert (status, answer["error"]["code"]) == (503, "service_paused")
        assert 3590 <= int(headers["retry-after"]) <= 3640
        async with session.get(f"{service.url}/readyz") as ready:
            assert ready.status == 503
            assert "paused" in (await ready.json())["failing"]["accepting"]
        status, answer, _ = await answering
        assert (status, answer["usage"]["completion_tokens"]) == (200, 20)
        await eventually(lambda: not replicas(service))
        assert service.status()["usd_per_hour"] == 0
        assert service.status()["standing"]["rest"] == "paused"
        assert any("0 replicas: paused until" in told for told in await messages(service, "scaled"))
        told = await service.resume()
        assert told["was"] == "paused"
        assert (await ask(service, session))[0] == 200


async def test_a_request_that_waits_when_the_pause_comes_is_told(short_dir: Path) -> None:
    """Nobody would come to answer it."""
    async with running(short_dir, boot_time="30s") as service, aiohttp.ClientSession() as session:
        waiting = asyncio.create_task(ask(service, session))
        await eventually(lambda: service.status()["queued"] == 1)
        await service.pause()
        status, answer, headers = await waiting
        assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "service_paused", "300")


async def test_a_pause_outlives_its_controller_and_not_its_time(short_dir: Path, clock: Clock) -> None:
    """Started again it launches nothing; once the time is over it does, by itself."""
    async with running(short_dir) as service:
        await service.pause(for_s=600.0)
        await eventually(lambda: not replicas(service))
    async with running(short_dir) as service, aiohttp.ClientSession() as session:
        assert (await ask(service, session))[1]["error"]["code"] == "service_paused"
        await eventually(lambda: service.status()["target"] == 0)
        clock.now += timedelta(seconds=600)
        assert (await ask(service, session))[0] in (200, 503)  # it may not have looked at the clock yet
        await service.wait_ready()
        assert "the pause has ended" in (await messages(service, "resumed"))[0]
    async with running(short_dir) as service:
        assert service.status()["standing"]["rest"] == "awake"


async def test_down_forgets_a_pause(short_dir: Path) -> None:
    """The next start begins anew, whether the controller took itself down or was taken down without one."""
    for by_itself in (True, False):
        async with running(short_dir) as service:
            assert service.status()["standing"]["rest"] == "awake"
            await service.pause()
            if by_itself:
                service.request_down()
        if not by_itself:
            await reap(small_spec(short_dir), environ={})


async def test_it_sleeps_by_its_calendar_and_wakes_ahead(short_dir: Path, clock: Clock) -> None:
    """At night nothing runs; five minutes before seven a replica is launched, and requests are taken again."""
    async with running(short_dir, SLEEP) as service, aiohttp.ClientSession() as session:
        status, answer, headers = await ask(service, session)
        assert (status, answer["error"]["code"]) == (503, "service_asleep")
        assert answer["error"]["message"] == "The service is asleep until 07:00 UTC; try again then."
        assert 8 * 3600 <= int(headers["retry-after"]) <= 8 * 3600 + 31
        await eventually(lambda: service.status()["target"] == 0)
        assert replicas(service) == []
        assert service.status()["plan"]["notes"] == [
            "asleep until 07:00 UTC (schedule.sleep[0]); `hedgeserve resume` wakes it before"
        ]
        clock.now += timedelta(hours=7, minutes=55)
        await service.wait_ready()
        assert (await ask(service, session))[0] == 200
        assert await messages(service, "asleep", "awake") == [
            "asleep until 07:00 UTC (schedule.sleep[0])",
            "1 replica to be ready by 07:00 UTC (the end of schedule.sleep[0])",
        ]


async def test_a_request_may_wake_it_and_is_held_meanwhile(short_dir: Path, clock: Clock) -> None:
    """It stays awake for a while after the last one, and then sleeps on."""
    schedule = SLEEP + 'wake_on_request = true\nawake_for = "10m"\n'
    async with running(short_dir, schedule) as service, aiohttp.ClientSession() as session:
        await eventually(lambda: service.status()["target"] == 0)
        assert service.status()["standing"]["wakes_on_request"]
        assert (await ask(service, session))[0] == 200
        assert "woken by a request" in service.status()["standing"]["why"]
        clock.now += timedelta(minutes=11)
        await eventually(lambda: not replicas(service))
        assert service.status()["standing"]["rest"] == "asleep"


async def test_a_request_that_comes_while_the_last_replica_drains_is_answered(short_dir: Path) -> None:
    """Scaled to zero, the last replica still answers somebody: the newcomer wakes another and waits for it."""
    idle = 'min = 0\nmax = 1\ntarget_requests_per_second = 5\nwindow = "1s"\nidle_after = "200ms"'
    async with running(short_dir, replicas=idle) as service, aiohttp.ClientSession() as session:
        for _ in range(4):
            assert (await ask(service, session))[0] == 200
            # Wherever it is on the way to zero when the next one comes: ready, draining, terminating, gone.
            await eventually(lambda: not replicas(service, "ready"))
            assert (await ask(service, session))[0] == 200
        await eventually(lambda: not replicas(service))
        [note] = service.status()["plan"]["notes"]
        assert note.startswith("no request needs a replica; the next one starts one and waits for it, about ")
        assert any("0 replicas: no request for 200ms" in told for told in await messages(service, "scaled"))
