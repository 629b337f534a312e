"""What goes wrong on VMs and disks, for real: the service says what happened, cleans up, and goes on."""

import asyncio
import itertools
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from hedgeserve.core import Service
from hedgeserve.errors import StateDirectoryError
from tests.conftest import eventually, messages, processes_of, replicas, small_spec

FAST = '"--load-time", "0s", "--tokens-per-second", "100"'


async def first_failure(directory: Path, **changes: str) -> tuple[str, Service]:
    """Run until a first replica has failed; the sentence that says why."""
    async with Service(small_spec(directory, **changes), environ={}) as service:

        async def failed() -> list[str]:
            told = await messages(service, "state")
            return [message for message in told if "→ terminating" in message]

        why = (await eventually(failed))[0]
        await eventually(lambda: service.status()["plan"]["notes"] or replicas(service), within_s=5)
    assert processes_of(directory) == []
    return why, service


async def test_a_vm_that_never_boots_is_given_up_with_the_reason(short_dir: Path) -> None:
    """The cloud grants a VM whose SSH server never comes: after timeouts.boot it is terminated."""
    why, _ = await first_failure(short_dir, boot_time="1h", boot="1s")
    assert "booting → terminating: boot:" in why
    assert "within 1 s" in why


async def test_an_engine_that_exits_at_once_is_told_with_its_last_words(short_dir: Path) -> None:
    """A command that fails: status and the end of its log are in the journal."""
    why, _ = await first_failure(short_dir, args='["--no-such-flag"]')
    assert "the engine exited with status 2" in why
    assert "no-such-flag" in why


async def test_an_engine_that_answers_its_probe_with_500_is_given_up(short_dir: Path) -> None:
    """After probe.initial_delay it counts as failed, with what the probe saw."""
    why, _ = await first_failure(short_dir, args=f'[{FAST}, "--health-status", "500"]', initial_delay="2s")
    assert "not ready 2 s after the start of the engine" in why
    assert "/health answered 500" in why


async def test_an_engine_that_hangs_is_given_up(short_dir: Path) -> None:
    """It takes connections and never answers."""
    why, _ = await first_failure(short_dir, args=f'[{FAST}, "--hang"]', initial_delay="3s")
    assert "not ready 3 s after the start of the engine" in why
    assert "did not answer within 2 s" in why


async def test_a_replica_whose_engine_dies_is_replaced_and_requests_wait_for_the_new_one(short_dir: Path) -> None:
    """Ready, then the engine exits: the replica is taken away and another one answers."""
    args = f'[{FAST}, "--die-after", "4s"]'
    async with (
        Service(small_spec(short_dir, args=args), environ={}) as service,
        aiohttp.ClientSession() as session,
    ):
        await service.wait_ready()
        first = replicas(service)[0]["id"]
        await eventually(lambda: all(replica["id"] != first for replica in replicas(service)))
        body = {"model": "demo", "prompt": "A fox", "max_tokens": 2}
        async with session.post(f"{service.url}/v1/completions", json=body) as response:
            assert response.status == 200
        told = await messages(service, replica=first)
        assert any("ready → terminating: the engine exited with status 1" in message for message in told)


async def test_an_image_that_never_works_does_not_burn_money(short_dir: Path) -> None:
    """Failure after failure: launches slow down, and a note says why and for how long."""
    async with Service(small_spec(short_dir, args='["--no-such-flag"]', retry_delay="1h"), environ={}) as service:
        await eventually(lambda: any("in a row" in note for note in service.status()["plan"]["notes"]))
        await eventually(lambda: replicas(service) == [])
        assert len(await messages(service, "launch")) == 2


async def test_a_zone_without_capacity_is_left_for_another_one(short_dir: Path) -> None:
    """A refused launch is news about its zone; the next launch goes elsewhere at once."""
    full = '[[local.zones]]\nzone = "east/a"\ncapacity = 0\n'
    async with Service(small_spec(short_dir, local=full), environ={}) as service:
        await service.wait_ready()
        assert [replica["zone"] for replica in replicas(service)] == ["local/east/b"]
        refused = await messages(service, "refused")
        assert len(refused) == 1
        assert "local/east/a" in refused[0]


async def test_with_no_spot_anywhere_on_demand_carries_the_load(short_dir: Path) -> None:
    """Every spot launch is refused: the fallback serves, and spot goes on being asked for, with pauses."""
    none = "launch_failure = 1.0"
    async with (
        Service(small_spec(short_dir, local=none, fallback="true"), environ={}) as service,
        aiohttp.ClientSession() as session,
    ):
        await service.wait_ready()
        assert [replica["market"] for replica in replicas(service, "ready")] == ["on_demand"]
        body = {"model": "demo", "prompt": "A fox", "max_tokens": 2}
        async with session.post(f"{service.url}/v1/completions", json=body) as response:
            assert response.status == 200


async def fill(service: Service) -> None:
    """Write to the journal until it has no room for one more replica."""
    offer = service._fleet.offers()[0]
    with suppress(StateDirectoryError):
        for number in itertools.count():
            await service._store.new_replica("filler", offer, f"token {number}", "", datetime.now(UTC))


async def test_a_full_disk_stops_launches_and_nothing_else(short_dir: Path) -> None:
    """Without a journal no cloud is asked, the status says so, and what is ready goes on serving."""
    wake = 'min = 1\nmax = 3\ntarget_requests_per_second = 1\nwindow = "1s"\nupscale_delay = "0s"'
    async with (
        Service(small_spec(short_dir, replicas=wake), environ={}) as service,
        aiohttp.ClientSession() as session,
    ):
        await service.wait_ready()
        journal = service._store._connection
        pages = (await (await journal.execute("PRAGMA page_count")).fetchone() or [0])[0]
        await journal.execute(f"PRAGMA max_page_count = {pages}")
        await fill(service)
        body = {"model": "demo", "prompt": "A fox", "max_tokens": 1}

        async def refused_to_launch() -> bool:
            async with session.post(f"{service.url}/v1/completions", json=body) as response:
                assert response.status == 200
            return bool(service.status()["trouble"])

        await eventually(refused_to_launch)
        assert "full" in service.status()["trouble"][0]
        async with session.get(f"{service.url}/readyz") as response:
            assert response.status == 200
        assert len(replicas(service)) == 1
        await journal.execute(f"PRAGMA max_page_count = {pages + 10_000}")

        async def launches_again() -> bool:
            async with session.post(f"{service.url}/v1/completions", json=body) as response:
                assert response.status == 200
            return len(replicas(service)) > 1 and not service.status()["trouble"]

        await eventually(launches_again)


async def test_a_state_directory_that_cannot_be_written_is_refused_at_start(short_dir: Path) -> None:
    """A file stands where the directory should be: the message names it, and nothing is launched."""
    (short_dir / "state").write_text("not a directory")
    with pytest.raises(StateDirectoryError, match=str(short_dir / "state")):
        async with Service(small_spec(short_dir), environ={}):
            raise AssertionError("it started")


async def test_a_client_that_goes_away_takes_its_request_off_the_engine(short_dir: Path) -> None:
    """Mid-stream the client closes: the replica's count and the engine's own go back to zero."""
    slow = '["--load-time", "0s", "--tokens-per-second", "10"]'
    async with Service(small_spec(short_dir, args=slow), environ={}) as service:
        await service.wait_ready()
        body = {"model": "demo", "prompt": "A fox", "max_tokens": 500, "stream": True}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{service.url}/v1/completions", json=body) as response:
                await response.content.readany()
                assert replicas(service)[0]["outstanding"] == 1
            await eventually(lambda: replicas(service)[0]["outstanding"] == 0, within_s=5)
            engine = replicas(service)[0]["url"]

            async def idle() -> bool:
                async with session.get(f"{engine}/metrics") as metrics:
                    return 'vllm:num_requests_running{engine="0",model_name="demo"} 0' in await metrics.text()

            await eventually(idle, within_s=5)


async def test_a_cancelled_service_still_takes_its_vms_down(short_dir: Path) -> None:
    """Whoever embeds us may be cancelled at any time: no process is left behind."""

    async def serve() -> None:
        async with Service(small_spec(short_dir), environ={}) as service:
            await eventually(lambda: replicas(service, "booting", "loading"))
            started.set()
            await service.run_until_stopped()

    started = asyncio.Event()
    task = asyncio.create_task(serve())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes_of(short_dir) == []
