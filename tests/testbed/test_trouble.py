"""Networks that break and mend, VMs that freeze, controllers that die, clouds that are slow, full or throttle."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from hedgeserve.core import Service
from tests.clouds.host import GrantedVm
from tests.conftest import eventually, messages
from tests.testbed.bed import NamespaceHost
from tests.testbed.bench import asked_all_the_while, bench, model_spec
from tests.testbed.worlds import CLOUDS, world_of

# A TLS connection to a VM that has vanished takes leave of it for half a minute, which no test waits for.
pytestmark = [
    pytest.mark.testbed,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def test_a_short_partition_loses_nothing_and_replaces_nobody(host: NamespaceHost, short_dir: Path) -> None:
    """A second without a network: every answer comes, none broken off, from the same two replicas."""
    async with bench(short_dir, host, "aws") as made:
        before = made.ids("ready")
        async with asked_all_the_while(made) as askers:
            await host.vms[before[0]].cut_cable()
            await asyncio.sleep(1)
            await host.vms[before[0]].mend_cable()
            asked = askers.answered
            await eventually(lambda: askers.answered > asked + 40)
        assert askers.interrupted == 0
        assert sorted(made.ids("ready")) == sorted(before)


async def test_a_long_partition_has_the_vm_replaced(host: NamespaceHost, short_dir: Path) -> None:
    """Whoever cannot be reached for long is replaced and terminated, though it still runs."""
    async with bench(short_dir, host, "gcp") as made:
        lost = made.ids("ready")[0]
        async with asked_all_the_while(made) as askers:
            await host.vms[lost].cut_cable()
            await made.ready(2, without=lost)
        assert askers.interrupted <= 2
        await eventually(lambda: not host.vms[lost].running, within_s=5, what="the lost VM is terminated")


async def test_a_frozen_vm_is_replaced(host: NamespaceHost, short_dir: Path) -> None:
    """Its kernel accepts connections; nobody answers on them."""
    async with bench(short_dir, host, "azure") as made:
        frozen = made.ids("ready")[0]
        async with asked_all_the_while(made) as askers:
            host.vms[frozen].freeze()
            await made.ready(2, without=frozen)
        assert askers.interrupted <= 2


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_twenty_vms_come_up_at_once_and_go_at_once(host: NamespaceHost, short_dir: Path, cloud: str) -> None:
    """From nothing to twenty that serve, through one cloud's API; then all are taken down."""
    began_s = time.monotonic()
    async with bench(short_dir, host, cloud, count=20) as made:
        up_s = time.monotonic() - began_s
        assert len(made.ids("ready")) == 20
        began_s = time.monotonic()
    print(f"{cloud}: 20 replicas ready after {up_s:.1f} s, gone after {time.monotonic() - began_s:.1f} s")


async def test_a_vm_with_another_host_key_is_not_spoken_to(host: NamespaceHost, short_dir: Path) -> None:
    """Somebody else answers at the VM's address: no engine is set up there, and the VM is given up."""
    start = host.start

    def start_an_impostor(vm: GrantedVm) -> None:
        host.start = start  # type: ignore[method-assign]
        head, _, body = vm.user_data.partition("\n")
        config = json.loads(body)
        other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        config["ssh_keys"]["ed25519_private"] = other
        start(replace(vm, user_data=f"{head}\n{json.dumps(config)}"))

    host.start = start_an_impostor  # type: ignore[method-assign]
    async with bench(short_dir, host, "aws", count=1, boot="6s") as made:
        told = await messages(made.service, replica="bed-1")
        assert any("host key that is not bed-1's" in message for message in told), told
        assert made.ids("ready") == ["bed-2"]
        assert not host.vms["bed-1"].running


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_vm_whose_controller_is_gone_ends_itself_and_is_cleared_away_later(
    host: NamespaceHost, short_dir: Path, cloud: str
) -> None:
    """The switch powers it off; what the cloud keeps of it then is found and taken away by the next controller."""
    lease = {"timeouts": 'lease = "3s"', "count": 1}
    with world_of(cloud, short_dir / "cloud", host) as world:
        host.ended = world.shut_down
        spec = model_spec(short_dir, world, on_exit="keep", **lease)
        async with Service(spec, environ=world.environ) as service:
            await service.wait_ready(1)
            await asyncio.sleep(4)
            assert host.running() == ["bed-1"], "as long as it is looked after it lives"
        await eventually(lambda: host.running() == [], within_s=15, what="the switch ends it")
        spec = model_spec(short_dir, world, **lease)
        async with Service(spec, environ=world.environ) as service:
            await service.wait_ready(1)
            assert host.running() == ["bed-2"]
            await eventually(lambda: world.vms() == ["bed-2"], within_s=15, what="the old VM is taken away")
            service.request_down()
        assert world.left() == []


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_zone_without_capacity_has_the_launch_moved_elsewhere(
    host: NamespaceHost, short_dir: Path, cloud: str
) -> None:
    """Whether the cloud says so at once (AWS) or after it has accepted (GCP, Azure)."""
    with world_of(cloud, short_dir / "cloud", host) as world:
        host.ended = world.shut_down
        first = world.toml().split('zones = ["')[1].partition('"')[0].rpartition("/")[2]
        world.refuse(zone=first, times=1)
        spec = model_spec(short_dir, world, count=1)
        async with Service(spec, environ=world.environ) as service:
            await service.wait_ready(1)
            [replica] = [r for r in service.status()["replicas"] if r["state"] == "ready"]
            assert not replica["zone"].endswith(f"/{first}")
            service.request_down()
        assert world.left() == []


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_storm_of_throttling_delays_and_spoils_nothing(
    host: NamespaceHost, short_dir: Path, cloud: str
) -> None:
    """The cloud says "too many requests" to the first few of every kind: the VMs come all the same, once each."""
    with world_of(cloud, short_dir / "cloud", host) as world:
        host.ended = world.shut_down
        world.throttle(2)
        spec = model_spec(short_dir, world)
        async with Service(spec, environ=world.environ) as service:
            await service.wait_ready(2)
            world.throttle(2)
            service.request_down()
        assert world.left() == []
        assert set(world.granted().values()) == {1}


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_grant_that_comes_after_we_have_given_up_is_taken_away(
    host: NamespaceHost, short_dir: Path, cloud: str
) -> None:
    """A launch that is answered too late is not counted on; its VM is ended or adopted, never forgotten."""
    with world_of(cloud, short_dir / "cloud", host) as world:
        host.ended = world.shut_down
        world.dawdle(4)
        patience = 'launch = "2s"'
        spec = model_spec(short_dir, world, count=1, timeouts=patience)
        async with Service(spec, environ=world.environ) as service:
            await service.wait_ready(1)
            await eventually(lambda: world.granted()["bed-1"], within_s=10, what="the late grant")
            ready = [str(r["id"]) for r in service.status()["replicas"] if r["state"] == "ready"]
            await eventually(lambda: world.vms() == ready, within_s=30, what=f"{ready} alone: {world.vms()}")
            service.request_down()
        assert world.left() == []
