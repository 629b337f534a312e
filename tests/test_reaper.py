"""What nobody owns in a cloud goes; a cloud that locks us out is left in peace and shown; down proves itself."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgeserve.core import Service
from hedgeserve.drivers.base import Leftover, Machine, MachineState
from hedgeserve.drivers.clearance import Clearance, Forgotten, Standing
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.drivers.tags import OWNER, REPLICA, SERVICE
from hedgeserve.errors import AuthError, CloudError
from hedgeserve.machines.inventory import Inventory
from hedgeserve.specfile import parse_spec
from tests.conftest import eventually, messages, replicas, small_spec
from tests.memorycloud import MODEL, MemoryCloud, Sky


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch) -> Sky:
    made = Sky()
    monkeypatch.setattr(MemoryCloud, "sky", made)
    monkeypatch.setattr("hedgeserve.drivers.clearance._FIRST_PAUSE_S", 0.01)
    return made


@pytest.fixture
def driver(sky: Sky, tmp_path: Path) -> Iterator[MemoryCloud]:
    spec = parse_spec(MODEL.format(state=tmp_path, pool=""), "model.toml", tmp_path, {})
    made = MemoryCloud(spec, {})
    yield made
    made._threads.close()


class CloudWithThings(LocalDriver):
    """The local cloud with things besides VMs, and troubles of its own."""

    things: Sequence[Leftover] = ()
    list_errors: Sequence[CloudError] = ()
    stopped: Sequence[Machine] = ()
    listed = 0

    async def list(self) -> Sequence[Machine]:
        CloudWithThings.listed += 1
        if CloudWithThings.list_errors:
            error, *CloudWithThings.list_errors = CloudWithThings.list_errors
            raise error
        return [*await super().list(), *CloudWithThings.stopped]

    async def terminate(self, machine_id: str) -> None:
        CloudWithThings.stopped = [one for one in CloudWithThings.stopped if one.id != machine_id]
        await super().terminate(machine_id)

    async def leftovers(self) -> Sequence[Leftover]:
        return CloudWithThings.things

    async def clear(self, leftover: Leftover) -> None:
        CloudWithThings.things = [one for one in CloudWithThings.things if one != leftover]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> type[CloudWithThings]:
    monkeypatch.setattr("hedgeserve.drivers.local.LocalDriver", CloudWithThings)
    for name, value in {"things": [], "list_errors": [], "stopped": [], "listed": 0}.items():
        monkeypatch.setattr(CloudWithThings, name, value)
    return CloudWithThings


def thing(id: str, *, in_use: bool = False, service: str = "small", hours: float = 2.0) -> Leftover:
    made = datetime.now(UTC) - timedelta(hours=hours)
    return Leftover("local", "east", "disk", id, service, "", in_use, made)


# Clearing a cloud


async def test_vms_are_waited_for_and_then_what_they_used_goes(driver: MemoryCloud, sky: Sky) -> None:
    sky.add_vm("svc-1")
    sky.add_vm("svc-2", state=MachineState.STOPPED)
    sky.add_thing("sg-1")
    sky.listed_after_end, sky.clear_refusals = 3, 2
    clearance = Clearance(driver, "svc", call_timeout_s=5.0)
    assert sorted(await clearance.end_vms()) == ["us-east-1/i-svc-1", "us-east-1/i-svc-2"]
    assert sky.machines == {}
    assert [one.id for one in await clearance.clear_rest()] == ["sg-1"]
    assert await clearance.standing(["us-east-1", "us-west-2"]) == [
        Standing("aws", "us-east-1", 0, 0),
        Standing("aws", "us-west-2", 0, 0),
    ]


async def test_what_does_not_go_in_time_is_named(driver: MemoryCloud, sky: Sky) -> None:
    sky.add_thing("sg-1")
    sky.clear_refusals = 10_000
    clearance = Clearance(driver, "svc", call_timeout_s=5.0, patience_s=0.05)
    with pytest.raises(CloudError, match="aws still has security group sg-1 in us-east-1: sg-1 is still in use"):
        await clearance.clear_rest()
    assert [standing.clear for standing in await clearance.standing(["us-east-1"])] == [False]


async def test_missing_credentials_are_not_waited_for(driver: MemoryCloud, sky: Sky) -> None:
    sky.error = AuthError("log in")
    with pytest.raises(AuthError, match="log in"):
        await Clearance(driver, "svc", call_timeout_s=5.0).end_vms()


def test_things_without_a_date_are_forgotten_an_hour_after_they_were_seen() -> None:
    forgotten, now = Forgotten(), datetime(2026, 9, 1, tzinfo=UTC)
    dateless = Leftover("aws", "us-east-1", "disk", "vol-1", "svc")
    in_use = Leftover("aws", "us-east-1", "disk", "vol-2", "svc", in_use=True)
    assert forgotten.among("aws", [dateless, in_use], now) == []
    assert forgotten.among("gcp", [], now) == []
    assert forgotten.among("aws", [dateless, in_use], now + timedelta(hours=1)) == [dateless]
    assert forgotten.among("aws", [], now + timedelta(hours=1)) == []
    assert forgotten.among("aws", [dateless], now + timedelta(hours=2)) == [], "it was away in between"


# The inventory


async def test_a_cloud_that_refuses_the_credentials_is_left_in_peace(driver: MemoryCloud, sky: Sky) -> None:
    inventory = Inventory({"aws": driver}, call_timeout_s=5.0)
    sky.error = AuthError("log in")
    for _ in range(3):
        with pytest.raises(AuthError, match="log in"):
            await inventory.refresh("aws")
    assert sum(call.startswith("list us-east-1") for call in sky.calls) == 1
    assert inventory.troubles() == {"aws": "log in"}
    assert inventory.locked_out("aws")

    sky.error = None
    inventory._locked_out_until_s["aws"] = 0.0
    assert await inventory.refresh("aws") == {}
    assert inventory.troubles() == {}


# In a running service


async def test_the_status_shows_a_cloud_in_trouble_and_no_longer_when_it_is_mended(
    short_dir: Path, cloud: type[CloudWithThings]
) -> None:
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        cloud.list_errors = [CloudError("the disk hangs")] * 3
        await eventually(lambda: service.status()["trouble"] == ["local: the disk hangs"])
        await eventually(lambda: service.status()["trouble"] == [])


async def test_a_cloud_that_is_unreachable_for_a_moment_does_not_keep_a_service_from_starting(
    short_dir: Path, cloud: type[CloudWithThings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgeserve.fleet._START_PATIENCE_S", (0.01, 0.01))
    cloud.list_errors = [CloudError("no route")] * 2
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
    cloud.list_errors = [CloudError("no route")] * 3
    with pytest.raises(CloudError, match="no route"):
        async with Service(small_spec(short_dir), environ={}):
            raise AssertionError("it started")
    cloud.list_errors, cloud.listed = [AuthError("log in")], 0
    with pytest.raises(AuthError, match="log in"):
        async with Service(small_spec(short_dir), environ={}):
            raise AssertionError("it started")
    assert cloud.listed == 1


async def test_forgotten_things_and_stopped_vms_are_reaped_while_the_service_runs(
    short_dir: Path, cloud: type[CloudWithThings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgeserve.machines.reaper._REAP_EVERY_S", 0.1)
    cloud.things = [thing("vol-1"), thing("vol-2", in_use=True)]
    cloud.things += [thing("vol-3", service="other"), thing("vol-4", hours=0)]
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        [running] = await LocalDriver.list(service._drivers["local"])  # type: ignore[arg-type]
        cloud.stopped = [_stopped_like(running)]
        await eventually(lambda: cloud.stopped == [])
        await eventually(lambda: [one.id for one in cloud.things] == ["vol-2", "vol-3", "vol-4"])
        told = await eventually(lambda: messages(service, "reaped"))
        assert any("local disk vol-1 in east was removed" in message for message in told)
        assert len(replicas(service, "ready")) == 1


def _stopped_like(machine: Machine) -> Machine:
    return Machine(
        id="stray",
        name="small-9",
        zone=machine.zone,
        market=machine.market,
        instance_type=machine.instance_type,
        state=MachineState.STOPPED,
        tags={SERVICE: "small", REPLICA: "small-9"},
        launched_at=machine.launched_at,
    )


async def test_a_vm_bears_its_owner_and_its_lease(short_dir: Path) -> None:
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        [machine] = await service._drivers["local"].list()
        assert machine.tags[SERVICE] == "small"
        assert machine.tags[REPLICA] == machine.name
        assert machine.tags[OWNER]


async def test_a_service_that_is_taken_down_clears_its_clouds_and_writes_down_the_proof(
    short_dir: Path, cloud: type[CloudWithThings]
) -> None:
    cloud.things = [thing("net-1", in_use=True), thing("vol-3", service="other")]
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        assert service.keeps() == (0, 0.0)
        service.request_down()
        await service.run_until_stopped()
        await service._wind_down()
        events = await service._store.events(limit=1000)
    assert [one.id for one in cloud.things] == ["vol-3"]
    cleared = [event.message for event in events if event.kind == "cleared"]
    assert cleared[:2] == ["local east: 0 VMs, 0 other things", "local west: 0 VMs, 0 other things"]


async def test_a_stop_that_keeps_the_vms_keeps_their_network_and_tells_what_they_cost(
    short_dir: Path, cloud: type[CloudWithThings]
) -> None:
    cloud.things = [thing("net-1", in_use=True)]
    async with Service(small_spec(short_dir, service='on_exit = "keep"'), environ={}) as service:
        await service.wait_ready()
        vms, usd_per_hour = service.keeps()
        assert (vms, usd_per_hour) == (1, pytest.approx(0.3))
    assert re.fullmatch(
        r"HedgeServe has stopped: 0\.0\d+ USD spent in \d+s; 1 replica keeps running \(0\.30 USD/h\), and "
        r"`hedgeserve down` would end it",
        service.farewell,
    )
    assert [one.id for one in cloud.things] == ["net-1"]
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
