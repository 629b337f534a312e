"""A cloud that misbehaves (the local one, with faults in its answers): no VM is lost, doubled or forgotten."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.core import Service
from hedgeserve.drivers.base import LaunchRequest, Machine
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.errors import CloudError
from hedgeserve.specfile import load_spec
from tests.conftest import eventually, messages, processes_of, replicas, small_spec
from tests.test_service import cloud_of


class FaultyCloud(LocalDriver):
    """The local cloud; each of its calls may be told to fail a number of times."""

    terminate_failures = 0
    launches_that_time_out = 0
    dies_after_s: float | None = None
    launched = 0

    async def launch(self, request: LaunchRequest) -> Machine:
        FaultyCloud.launched += 1
        machine = await super().launch(request)
        if FaultyCloud.launches_that_time_out > 0:
            FaultyCloud.launches_that_time_out -= 1
            raise CloudError("the answer got lost")
        if FaultyCloud.dies_after_s is not None:
            await asyncio.sleep(FaultyCloud.dies_after_s)
            await super().terminate(machine.id)
        return machine

    async def terminate(self, machine_id: str) -> None:
        if FaultyCloud.terminate_failures > 0:
            FaultyCloud.terminate_failures -= 1
            raise OSError("an error that nobody expected")
        await super().terminate(machine_id)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the faulty cloud in the place of the local one, with these faults."""

    def put(**faults: Any) -> None:
        monkeypatch.setattr("hedgeserve.drivers.local.LocalDriver", FaultyCloud)
        monkeypatch.setattr(FaultyCloud, "launched", 0)
        for name, value in faults.items():
            monkeypatch.setattr(FaultyCloud, name, value)

    return put


async def test_a_launch_whose_answer_was_lost_leaves_no_vm_behind(
    short_dir: Path, faulty: Callable[..., None]
) -> None:
    """There is a VM although the cloud said it failed: it is found by its name and taken away."""
    faulty(launches_that_time_out=1)
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        assert [replica["id"] for replica in replicas(service)] == ["small-2"]
        told = await messages(service, replica="small-1")
        assert any("the answer got lost" in message for message in told)
        assert told[-1].startswith("terminating → gone: failed")
        assert [path.name for path in (short_dir / "state" / "local").iterdir()] == ["small-2"]


async def test_a_vm_that_cannot_be_terminated_is_asked_for_again_and_loudly(
    short_dir: Path, faulty: Callable[..., None]
) -> None:
    """Whatever error comes, giving up would leave a VM that costs money."""
    faulty(terminate_failures=1)
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
    assert FaultyCloud.terminate_failures == 0
    assert processes_of(short_dir) == []


async def test_vms_that_die_before_they_serve_do_not_burn_money(
    short_dir: Path, faulty: Callable[..., None]
) -> None:
    """A VM that is granted and gone at once is as good as refused: its zone rests, so launches are few."""
    faulty(dies_after_s=0.0)
    async with Service(small_spec(short_dir, retry_delay="1h"), environ={}) as service:
        await eventually(lambda: FaultyCloud.launched == 3 and replicas(service) == [])
        assert service.status()["plan"]["notes"]
        last = service._plan
        await eventually(lambda: service._plan is not last, what="one more tick")
        assert FaultyCloud.launched == 3, "one for each zone"


async def test_an_adopted_replica_is_billed_for_the_time_without_a_controller(short_dir: Path) -> None:
    """The ledger has no gap where the controller was away."""
    spec = small_spec(short_dir, service='on_exit = "keep"')
    async with Service(spec, environ={}) as service:
        await service.wait_ready()
        stored = await service._store.alive_replicas("small")
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        life = service._fleet._lives[stored[0].id]
        await life.bill()
        until = await service._store.charged_until(stored[0].id)
        assert until is not None
        lines = await service._store._run("SELECT at, seconds FROM ledger ORDER BY id")
        begun = datetime.fromisoformat(lines[0]["at"]) - timedelta(seconds=lines[0]["seconds"])
        billed_s = sum(line["seconds"] for line in lines)
        assert billed_s == pytest.approx((until - begun).total_seconds(), abs=0.05)
        assert (begun - stored[0].created_at).total_seconds() < billed_s / 2, "from the launch on"
        assert await service._store.spent_usd() == pytest.approx(billed_s * 0.3 / 3600)


async def test_a_pool_that_was_removed_while_its_vms_run_is_not_forgotten(short_dir: Path) -> None:
    """The next start refuses, and names the replicas and what to do; nothing is marked gone."""
    async with Service(small_spec(short_dir, service='on_exit = "keep"'), environ={}) as service:
        await service.wait_ready()
        url = service.url
    file = short_dir / "other.toml"
    file.write_text(
        f'[service]\nname = "small"\nlisten = "127.0.0.1:0"\nstate_dir = "{short_dir}/state"\n'
        f'[model]\nid = "demo"\nengine = "demo"\n[[pools]]\ncloud = "static"\nurls = ["{url}"]\n'
    )
    with pytest.raises(CloudError, match="small-1 may still run"):
        async with Service(load_spec(file, {}), environ={}):
            raise AssertionError("it started")
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        assert replicas(service)[0]["id"] == "small-1"
    assert processes_of(short_dir) == []


async def test_a_notice_that_is_still_there_after_a_restart_finds_the_replica_serving_on(short_dir: Path) -> None:
    """Under notice it goes on serving until another is ready, whoever the controller is."""
    async with Service(small_spec(short_dir, service='on_exit = "keep"'), environ={}) as service:
        await service.wait_ready()
        await cloud_of(service).preempt("small-1", notice_s=30.0)
        await eventually(lambda: replicas(service, "noticed"))
    async with Service(small_spec(short_dir), environ={}) as service:
        await eventually(lambda: any(r["id"] == "small-1" for r in replicas(service, "noticed", "draining")))
        await eventually(lambda: replicas(service, "ready"))
    assert processes_of(short_dir) == []
