"""The VMs in miniature themselves: they boot, are who they say, go silent, freeze and come back."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hedgeserve.drivers.base import Dialect, LaunchRequest, Machine, MachineState
from hedgeserve.drivers.cloudinit import cloud_config, startup_script
from hedgeserve.errors import BootstrapError
from hedgeserve.machines.bootstrap import WATCHER
from hedgeserve.machines.keys import SshKeys
from hedgeserve.machines.ssh import connect
from hedgeserve.replica import Market, Offer, ZoneId
from tests.clouds.host import GrantedVm
from tests.conftest import eventually
from tests.testbed.bed import NamespaceHost

pytestmark = pytest.mark.testbed

ZONES = {
    "aws": ("us-east-1a", "ubuntu"),
    "gcp": ("us-central1-a", "hedgeserve"),
    "azure": ("eastus/1", "azureuser"),
}


async def launch(
    host: NamespaceHost,
    keys: SshKeys,
    name: str,
    cloud: str = "aws",
    *,
    lease_s: float = 900,
    told: Callable[..., str] = cloud_config,
) -> Machine:
    """A VM that was told what a driver tells one."""
    zone, user = ZONES[cloud]
    offer = Offer(ZoneId(f"{cloud}/x/{zone.rpartition('/')[2]}"), "small", Market.SPOT, 1.0, datetime.now(UTC))
    request = LaunchRequest(name, f"t-{name}", offer, {}, keys.authorized_key, await keys.make_host_key(name))
    user_data = told(request, user=user, lease_s=lease_s)
    host.start(GrantedVm(cloud, name, zone, True, user_data, "", user, {}))
    return Machine(
        name, name, offer.zone, Market.SPOT, "small", MachineState.RUNNING, {}, datetime.now(UTC),
        address=host.address(name), ssh_user=user, dialect=Dialect(cloud),
    )  # fmt: skip


@pytest.mark.parametrize("cloud", ZONES)
async def test_a_vm_is_what_its_user_data_says(host: NamespaceHost, tmp_path: Path, cloud: str) -> None:
    """It presents our host key, lets our key in as the image's user, has a name and a disk of its own."""
    keys = SshKeys(tmp_path)
    machine = await launch(host, keys, "s-1", cloud)
    async with connect(machine, keys, timeout_s=10) as remote:
        told = await remote.run("id -un; hostname; sudo -n id -un; ls / | grep -c . ; echo x > /tmp/x; ls -A /tmp")
        who, name, root, _, files = told.stdout.split()
        assert (who, name, root, files) == (machine.ssh_user, "s-1", "root", "x")
        seen = await remote.run("cloud-init status --wait && sudo touch /etc/seen && ls /etc/seen")
        assert seen.status == 0, seen.last_words
    assert "seen" not in os.listdir("/etc")


async def test_the_wrong_host_key_is_refused(host: NamespaceHost, tmp_path: Path) -> None:
    """A VM that answers at the address with another key than ours is not spoken to."""
    keys = SshKeys(tmp_path)
    machine = await launch(host, keys, "s-1")
    async with connect(machine, keys, timeout_s=10):
        pass
    await keys.make_host_key("s-1")
    with pytest.raises(BootstrapError, match="host key that is not s-1's"):
        async with connect(machine, keys, timeout_s=10):
            pass


async def test_who_vanishes_says_nothing_and_answers_nothing(host: NamespaceHost, tmp_path: Path) -> None:
    """Neither the open connection nor a new one is told: both wait in vain."""
    keys = SshKeys(tmp_path)
    machine = await launch(host, keys, "s-1")
    async with connect(machine, keys, timeout_s=10) as remote:
        lines = remote.lines("echo up; sleep 100")
        assert await anext(lines) == "up\n"
        await host.vms["s-1"].vanish()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(lines), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection(machine.address, 22), 1)


async def test_a_mended_cable_and_a_thawed_vm_lose_nothing(host: NamespaceHost, tmp_path: Path) -> None:
    """What was said while nobody could hear arrives later."""
    keys = SshKeys(tmp_path)
    machine = await launch(host, keys, "s-1")
    vm = host.vms["s-1"]
    async with connect(machine, keys, timeout_s=10) as remote:
        lines = remote.lines("for i in $(seq 40); do echo $i; sleep 0.05; done")
        assert await anext(lines) == "1\n"
        await vm.cut_cable()
        await asyncio.sleep(0.5)
        await vm.mend_cable()
        vm.freeze()
        await asyncio.sleep(0.5)
        vm.thaw()
        assert [line async for line in lines if line] == [f"{i}\n" for i in range(2, 41)]


@pytest.mark.parametrize("cloud", ZONES)
async def test_the_watcher_hears_of_a_preemption(host: NamespaceHost, tmp_path: Path, cloud: str) -> None:
    """Through the VM's own metadata service, in its cloud's dialect."""
    keys = SshKeys(tmp_path)
    machine = await launch(host, keys, "s-1", cloud)
    async with connect(machine, keys, timeout_s=10) as remote:
        async with remote.sftp() as sftp:
            await sftp.put(str(WATCHER), "watcher.py")
        lines = remote.lines(f"python3 watcher.py {cloud} http://169.254.169.254 0.2 lease")
        assert json.loads(await anext(lines))["event"] == "watching"
        preemption = asyncio.create_task(host.vms["s-1"].preempt(3))
        said = [json.loads(await asyncio.wait_for(anext(lines), 5))]
        while said[-1]["event"] == "alive":
            said.append(json.loads(await asyncio.wait_for(anext(lines), 5)))
        assert said[-1]["event"] == "notice"
        await preemption


async def test_twenty_vms_at_once(host: NamespaceHost, tmp_path: Path, record_property: object) -> None:
    """Twenty boot side by side, each with a key of its own, and let us in."""
    keys = SshKeys(tmp_path)
    began_s = time.monotonic()
    machines = [await launch(host, keys, f"s-{i}", list(ZONES)[i % 3]) for i in range(20)]

    async def name_of(machine: Machine) -> str:
        async with connect(machine, keys, timeout_s=30) as remote:
            return (await remote.run("hostname")).stdout.strip()

    names = await asyncio.gather(*map(name_of, machines))
    print(f"20 VMs: {time.monotonic() - began_s:.1f} s")
    assert names == [machine.name for machine in machines]


async def test_a_vm_that_shuts_itself_down_is_told_of(host: NamespaceHost, tmp_path: Path) -> None:
    """`shutdown` ends it, and whoever listens hears of it."""
    keys, ended = SshKeys(tmp_path), []
    host.ended = ended.append
    machine = await launch(host, keys, "s-1")
    async with connect(machine, keys, timeout_s=10) as remote:
        await remote.run("sudo shutdown -h now &")
        await eventually(lambda: ended, within_s=5)
    assert ended == ["s-1"]
    assert host.running() == []


async def test_a_start_up_script_does_what_cloud_init_does(host: NamespaceHost, tmp_path: Path) -> None:
    """For images without cloud-init: host key, user and login key come by the script, a moment later."""
    keys = SshKeys(tmp_path)
    machine = await launch(host, keys, "s-1", "gcp", told=startup_script)

    async def who() -> str:
        try:
            async with connect(machine, keys, timeout_s=5) as remote:
                return (await remote.run("id -un")).stdout.strip()
        except BootstrapError:  # until the script has run, the VM presents a key of its own
            return ""

    assert await eventually(who, within_s=5, what=host.vms["s-1"].console()) == machine.ssh_user


async def test_the_dead_man_switch_ends_a_vm_that_nobody_looks_after(host: NamespaceHost, tmp_path: Path) -> None:
    """As long as the watcher runs the VM lives, however long; once the controller is gone it powers itself off."""
    keys, ended = SshKeys(tmp_path), []
    host.ended = ended.append
    machine = await launch(host, keys, "s-1", lease_s=2)
    async with connect(machine, keys, timeout_s=10) as remote:
        await remote.run("mkdir hedgeserve")
        async with remote.sftp() as sftp:
            await sftp.put(str(WATCHER), "hedgeserve/watcher.py")
        lines = remote.lines("python3 hedgeserve/watcher.py aws http://169.254.169.254 1 hedgeserve/lease")
        alive_until_s = time.monotonic() + 5
        while time.monotonic() < alive_until_s:
            await anext(lines)
        assert ended == []
    await eventually(lambda: ended, within_s=10, what="the VM powers itself off")
