"""The whole loop on the local cloud: real processes, real SSH, real HTTP, real preemptions."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from hedgeserve.core import Service
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.errors import ListenError, StateDirectoryError, StateLockedError
from hedgeserve.fleet import read_credentials
from hedgeserve.machines.life import ReplicaLife
from hedgeserve.machines.session import VmSession
from hedgeserve.takedown import reap
from tests.conftest import eventually, messages, processes_of, replicas, small_spec, small_toml


@asynccontextmanager
async def running(directory: Path, **changes: Any) -> AsyncIterator[Service]:
    """A small service, ready; that it leaves no process behind is checked at the end."""
    spec = small_spec(directory, **changes)
    async with Service(spec, environ={}) as service:
        yield service
    assert processes_of(directory) == []
    assert list((directory / "state" / "local").iterdir()) == []
    assert not (directory / "state" / "admin.sock").exists()


def cloud_of(service: Service) -> LocalDriver:
    """The make-believe cloud, to have it take VMs back."""
    driver = service._drivers["local"]
    assert isinstance(driver, LocalDriver)
    return driver


def ask(service: Service, session: aiohttp.ClientSession, **changes: Any) -> Any:
    """One completion."""
    body = {"model": "demo", "prompt": "A fox", "max_tokens": 8, **changes}
    return session.post(f"{service.url}/v1/completions", json=body)


async def test_a_request_that_comes_before_any_replica_waits_and_is_answered(short_dir: Path) -> None:
    """The endpoint is open at once; the first request is held while the first replica boots."""
    async with running(short_dir) as service, aiohttp.ClientSession() as session:
        assert replicas(service, "ready") == []
        async with ask(service, session) as response:
            answer = await response.json()
        assert response.status == 200
        assert answer["choices"][0]["text"]
        assert response.headers["x-hedgeserve-replica"] == replicas(service, "ready")[0]["id"]


async def test_on_demand_bridges_until_spot_is_ready_and_then_goes(short_dir: Path) -> None:
    """Both start together; once spot has been ready for a while, on-demand is let go, and not before."""
    async with running(short_dir, fallback="true", overprovision=1, replicas="count = 1") as service:
        await eventually(lambda: len(replicas(service)) == 3)
        assert sorted(replica["market"] for replica in replicas(service)) == ["on_demand", "spot", "spot"]
        await eventually(lambda: len(replicas(service)) == 2)
        assert [(replica["market"], replica["state"]) for replica in replicas(service)] == [("spot", "ready")] * 2
        assert len({replica["zone"] for replica in replicas(service)}) == 2
        assert any("gone: replaced" in message for message in await messages(service, "gone"))


async def test_the_replacement_is_launched_at_the_notice_and_no_request_is_lost(short_dir: Path) -> None:
    """A notice starts a new replica at once; the old one serves until the new one is ready, then drains."""
    async with running(short_dir) as service, aiohttp.ClientSession() as session:
        await service.wait_ready()
        old = replicas(service)[0]["id"]
        await cloud_of(service).preempt(old, notice_s=8.0)
        await eventually(lambda: replicas(service, "noticed"), within_s=5)
        statuses = []
        while any(replica["id"] == old for replica in replicas(service)):
            async with ask(service, session) as response:
                statuses.append(response.status)
        async with ask(service, session) as response:
            statuses.append(response.status)
        assert set(statuses) == {200}
        assert [replica["id"] for replica in replicas(service, "ready")] != [old]
        told = await messages(service, replica=old)
        assert any("preemption notice" in message for message in told)
        assert any("noticed → draining" in message for message in told)
        assert told[-1].startswith("terminating → gone: preempted")


async def test_a_vm_that_vanishes_without_a_word_costs_no_request_that_had_no_byte(short_dir: Path) -> None:
    """Requests that wait for their first byte on a killed VM are answered by its replacement."""
    slow = '["--load-time", "0s", "--tokens-per-second", "20"]'
    async with running(short_dir, args=slow) as service, aiohttp.ClientSession() as session:
        await service.wait_ready()
        old = replicas(service)[0]["id"]

        async def answered() -> int:
            async with ask(service, session, max_tokens=40) as response:
                await response.read()
                return response.status

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(answered()) for _ in range(5)]
            await eventually(lambda: service.status()["in_flight"] == 5)
            await cloud_of(service).preempt(old, notice_s=0.0)
        assert [task.result() for task in asked] == [200] * 5
        told = await messages(service, replica=old)
        assert any("taken away without a notice" in message for message in told)


@pytest.mark.parametrize("where", [(VmSession, "_watch"), (ReplicaLife, "_work"), (ReplicaLife, "_provision")])
async def test_a_life_that_a_stray_cancellation_ends_leaves_no_vm_behind(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    """However deep it comes from: the replica fails, for a reason that is told, and another takes its place."""
    owner, name = where
    sound, strays = getattr(owner, name), [asyncio.CancelledError()]

    async def cancelled_once(*args: Any) -> Any:
        if strays:
            raise strays.pop()
        return await sound(*args)

    monkeypatch.setattr(owner, name, cancelled_once)
    async with running(short_dir) as service:
        await service.wait_ready()
        assert not strays
        told = await messages(service, replica="small-1")
        assert any("an unexpected error: " in message for message in told)
        assert "→ gone: " in told[-1]


async def test_the_service_scales_to_zero_and_wakes_for_a_request(short_dir: Path) -> None:
    """Idle, nothing runs and nothing is paid; the request that comes then is held until a replica is there."""
    idle = 'min = 0\nmax = 2\ntarget_requests_per_second = 5\nwindow = "1s"\ndownscale_delay = "1s"'
    async with running(short_dir, replicas=idle) as service, aiohttp.ClientSession() as session:
        assert service.status()["target"] == 0
        for _ in range(2):
            async with ask(service, session) as response:
                assert response.status == 200
            await eventually(lambda: replicas(service) == [], within_s=20, what="scaled to zero")
        assert service.status()["usd_per_hour"] == 0


async def test_more_load_adds_replicas(short_dir: Path) -> None:
    """The request rate asks for more replicas after the upscale delay, up to the maximum."""
    scaled = 'min = 1\nmax = 2\ntarget_requests_per_second = 1\nwindow = "2s"\nupscale_delay = "0s"'
    async with running(short_dir, replicas=scaled) as service, aiohttp.ClientSession() as session:
        await service.wait_ready()

        async def grown() -> bool:
            async with ask(service, session, max_tokens=1) as response:
                assert response.status == 200
            return len(replicas(service, "ready")) == 2

        await eventually(grown)
        assert service.status()["target"] == 2
        assert any("1 → 2 replicas" in message for message in await messages(service, "scaled"))


async def test_the_official_client_streams_through_the_whole_house(short_dir: Path) -> None:
    """The same text, streamed and not, from a replica behind SSH bootstrap and the balancer."""
    async with running(short_dir) as service:
        client = AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none needed", max_retries=0)
        async with client:
            question: Any = [{"role": "user", "content": "What is a spot VM?"}]
            whole = await client.chat.completions.create(model="demo", messages=question, max_tokens=20)
            stream = await client.chat.completions.create(
                model="demo", messages=question, max_tokens=20, stream=True
            )
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(parts) == whole.choices[0].message.content
        assert len(parts) > 5


async def test_engines_are_reached_through_ssh_where_the_spec_says_so(short_dir: Path) -> None:
    """With transport = "ssh" the replica's URL is a tunnel on our own loopback address."""
    async with running(short_dir, service='transport = "ssh"') as service, aiohttp.ClientSession() as session:
        await service.wait_ready()
        assert replicas(service)[0]["url"].startswith("http://127.0.0.1:")
        async with ask(service, session) as response:
            assert response.status == 200


async def test_engine_logs_can_be_read(short_dir: Path) -> None:
    """The end of the engine's log comes over SSH; a replica that there is not is a KeyError."""
    async with running(short_dir) as service:
        await service.wait_ready()
        log = await service.logs(replicas(service)[0]["id"], 50)
        assert "demo" in log.lower()
        with pytest.raises(KeyError):
            await service.logs("small-99")


async def test_servers_of_somebody_else_are_probed_and_used_and_left_alone(short_dir: Path) -> None:
    """A static server counts as on-demand that is always there: with one, no spot replica is missing."""
    (short_dir / "lender").mkdir()
    (short_dir / "borrower").mkdir()
    async with running(short_dir / "lender") as lender:
        await lender.wait_ready()
        static = f'[[pools]]\ncloud = "static"\nurls = ["{lender.url}"]'
        async with (
            running(short_dir / "borrower", pools=static, fallback="true") as service,
            aiohttp.ClientSession() as session,
        ):
            await eventually(lambda: [replica["market"] for replica in replicas(service)] == ["external"])
            async with ask(service, session) as response:
                assert response.status == 200
                assert response.headers["x-hedgeserve-replica"] == "small-static-1"
        assert replicas(lender, "ready")


async def test_a_second_instance_refuses_to_start_and_says_who_holds_the_state(short_dir: Path) -> None:
    """Two controllers on one state directory would launch and reap each other's VMs."""
    spec = small_spec(short_dir)
    async with Service(spec, environ={}):
        with pytest.raises(StateLockedError, match=r"held by process \d+"):
            async with Service(spec, environ={}):
                raise AssertionError("it started")


async def test_keys_that_cannot_be_made_are_a_sentence(short_dir: Path) -> None:
    """A disk that is full from the start, say."""
    (short_dir / "file").touch()
    with pytest.raises(
        StateDirectoryError, match=r"the keys in .*/file/ssh cannot be read or made: Not a directory"
    ):
        await read_credentials(short_dir / "file" / "ssh")


async def test_a_taken_port_is_refused_before_anything_is_launched(short_dir: Path) -> None:
    """The address is bound first: a typo in `listen` must not cost a VM."""
    async with running(short_dir) as holder:
        other = short_dir / "other"
        other.mkdir()
        spec = small_spec(other, listen=holder.url.removeprefix("http://"))
        with pytest.raises(ListenError, match="in use"):
            async with Service(spec, environ={}):
                raise AssertionError("it started")
        assert list(other.iterdir()) == [], "nor does it leave a state directory that was not there"


async def test_kept_vms_are_adopted_by_the_next_start_and_reaped_by_down(short_dir: Path) -> None:
    """`on_exit = "keep"` leaves the fleet; the next start serves from it without a launch; down ends it."""
    spec = small_spec(short_dir, service='on_exit = "keep"')
    async with Service(spec, environ={}) as service:
        await service.wait_ready()
        before = replicas(service)[0]["id"]
    async with Service(spec, environ={}) as service:
        await service.wait_ready()
        assert [replica["id"] for replica in replicas(service)] == [before]
        assert any("adopted" in message or "taken up" in message for message in await messages(service, "adopted"))
    assert await reap(spec, environ={}) == [before]
    assert processes_of(short_dir) == []


async def test_a_vm_that_no_replica_owns_is_terminated(short_dir: Path) -> None:
    """Whatever bears the service's tag and is not in the journal costs money for nothing."""
    async with Service(small_spec(short_dir, service='on_exit = "keep"'), environ={}) as service:
        await service.wait_ready()
        orphan = replicas(service)[0]["id"]
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (short_dir / "state" / name).unlink(missing_ok=True)
    async with running(short_dir) as service:
        told = await messages(service, "reaped")
        assert len(told) == 1
        assert orphan in told[0]


def test_the_documented_example_runs(short_dir: Path) -> None:
    """examples/embed.py, as a user would run it, on a quick spec."""
    file = short_dir / "model.toml"
    file.write_text(small_toml(short_dir))
    done = subprocess.run(
        [sys.executable, "examples/embed.py", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "serving at http://127.0.0.1:" in done.stdout
    assert len(done.stdout.splitlines()[-1]) > 20


async def test_a_notice_to_a_replica_that_is_still_loading_ends_it_at_once(short_dir: Path) -> None:
    """It would be gone before it could serve: its replacement starts now, and no more is paid for it."""
    slow = '["--load-time", "6s", "--tokens-per-second", "100"]'
    async with running(short_dir, args=slow) as service:
        await eventually(lambda: replicas(service, "loading"))
        await cloud_of(service).preempt("small-1", notice_s=20.0)
        await eventually(lambda: "small-1" not in [replica["id"] for replica in replicas(service)], within_s=4)
        told = await messages(service, replica="small-1")
        assert any("loading → terminating: preemption notice" in message for message in told)
        assert replicas(service)[0]["id"] == "small-2"
