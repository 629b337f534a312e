"""What goes wrong on VMs and disks, for real: the service says what happened, cleans up, and goes on."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from hedgeserve.core import Service
from hedgeserve.errors import StateDirectoryError
from hedgeserve.specfile import parse_spec
from tests.conftest import eventually, messages, processes_of, replicas, small_spec, small_toml
from tests.test_service import ask, cloud_of

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


async def test_a_vm_that_dies_without_a_notice_while_it_loads_is_replaced_and_counted_as_preempted(
    short_dir: Path,
) -> None:
    """Its connection breaks in the middle of the start: the cloud is asked, and the engine is not blamed."""
    slow = '["--load-time", "5s", "--tokens-per-second", "100"]'
    async with (
        Service(small_spec(short_dir, args=slow), environ={}) as service,
        aiohttp.ClientSession() as session,
    ):
        zone = (await eventually(lambda: replicas(service, "loading")))[0]["zone"]
        await cloud_of(service).preempt("small-1", notice_s=0.0)
        await eventually(lambda: [replica["id"] for replica in replicas(service)] == ["small-2"], within_s=10)
        told = await messages(service, replica="small-1")
        assert any("loading → terminating: the VM was taken away without a notice" in one for one in told)
        assert told[-1].startswith("terminating → gone: preempted after")
        async with session.get(f"{service.url}/metrics") as response:
            counted = [line for line in (await response.text()).splitlines() if "preemptions_total{" in line]
        assert f'hedgeserve_preemptions_total{{market="spot",notice="none",zone="{zone}"}} 1.0' in counted


async def test_a_ready_engine_that_hangs_is_replaced_and_its_request_answered_by_the_new_one(
    short_dir: Path,
) -> None:
    """Every process of the engine is stopped: after failure_threshold probes another VM takes over."""
    impatient = small_toml(short_dir).replace('timeout = "2s"', 'timeout = "500ms"\nfailure_threshold = 2')
    async with (
        Service(parse_spec(impatient, "small.toml", short_dir, {}), environ={}) as service,
        aiohttp.ClientSession() as session,
    ):
        await service.wait_ready()
        engine = int((short_dir / "state" / "local" / "small-1" / "home" / "engine.pid").read_text())
        os.killpg(engine, signal.SIGSTOP)
        async with ask(service, session) as response:
            assert response.status == 200
            assert response.headers["x-hedgeserve-replica"] == "small-2"
        told = await messages(service, replica="small-1")
        assert any("ready → terminating: 2 probes failed in a row" in message for message in told)
    assert processes_of(short_dir) == []


async def test_an_sshd_that_was_asked_for_and_cannot_run_is_a_refused_launch_with_its_reason(
    short_dir: Path,
) -> None:
    """It cannot be told of a path with a quotation mark (nor run where it is missing): the journal says so."""
    state = f'{short_dir}/a \\" in the name'
    async with Service(small_spec(short_dir, state=state, local='ssh_server = "sshd"'), environ={}) as service:
        refused = await eventually(lambda: messages(service, "refused"))
        assert refused[0].startswith('local.ssh_server = "sshd" cannot work: ')
        assert refused[0].endswith('; or set it to "auto" or "asyncssh"')
    assert processes_of(short_dir) == []


@asynccontextmanager
async def rack() -> AsyncIterator[web.TCPSite]:
    """A server of somebody else, until its site is stopped."""

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    async def complete(request: web.Request) -> web.Response:
        return web.json_response({"object": "text_completion", "choices": [{"index": 0, "text": "Rack."}]})

    app = web.Application()
    app.add_routes([web.get("/health", health), web.post("/v1/completions", complete)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield site
    finally:
        await runner.cleanup()


async def test_when_a_static_server_dies_spot_takes_over_and_requests_go_on(short_dir: Path) -> None:
    """The server beside the spot pool goes away: requests wait for the first spot replica, and none is refused."""
    async with rack() as site, aiohttp.ClientSession() as session:
        runner, port = site._runner, site._runner.addresses[0][1]
        static = f'[[pools]]\ncloud = "static"\nurls = ["http://127.0.0.1:{port}"]'
        async with Service(small_spec(short_dir, pools=static, fallback="true"), environ={}) as service:
            await eventually(lambda: [replica["market"] for replica in replicas(service, "ready")] == ["external"])
            await eventually(lambda: len(replicas(service)) == 1)
            async with ask(service, session) as response:
                assert (await response.json())["choices"][0]["text"] == "Rack."
            await runner.cleanup()

            async def taken_over() -> bool:
                async with ask(service, session) as response:
                    assert response.status == 200
                    return response.headers["x-hedgeserve-replica"] != "small-static-1"

            await eventually(taken_over)
            await eventually(lambda: [one["market"] for one in replicas(service, "ready")] == ["spot"])
    assert processes_of(short_dir) == []


async def test_a_notice_is_in_the_journal_in_a_moment(short_dir: Path) -> None:
    """The metadata service is asked every 200 ms; from the notice to the event takes 1.5 s at most."""
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        await cloud_of(service).preempt("small-1", notice_s=30.0)
        noticed = await eventually(lambda: messages(service, "notice", replica="small-1"), within_s=1.5)
        assert noticed[0].startswith("preemption notice: the VM goes in ")
