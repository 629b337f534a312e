"""VMs on a fake EC2 that checks every request against Amazon's own description of the API."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest

from hedgeserve.drivers.base import Dialect, MachineState
from hedgeserve.drivers.tags import tags_for
from hedgeserve.errors import CloudError
from hedgeserve.replica import Market
from tests.clouds.ec2_bench import *  # noqa: F403
from tests.clouds.ec2_bench import PUBLIC_KEY, Make, launch_request
from tests.clouds.ec2_wire import tag_specifications
from tests.clouds.fake_ec2 import FakeEc2
from tests.clouds.host import GrantedVm
from tests.conftest import eventually

NAME = {"Name": "chat-1"}


def tags_of_request(parameters: Any) -> dict[str, dict[str, str]]:
    """The tags of a RunInstances request, by kind of resource."""
    return {kind: dict(tags) for kind, tags in tag_specifications(parameters)}


async def test_a_spot_vm_is_asked_for_with_all_that_keeps_it_from_costing_on(aws: Make, ec2: FakeEc2) -> None:
    """One-time, terminate on interruption and on shutdown, IMDSv2, a disk and an interface that go with it."""
    driver = aws()
    request = launch_request()
    machine = await driver.launch(request)
    (asked,) = ec2.of("RunInstances")
    expected = {
        "InstanceType": "g6.xlarge",
        "ClientToken": "token-chat-1",
        "MinCount": "1",
        "MaxCount": "1",
        "Placement.AvailabilityZone": "us-east-1a",
        "InstanceMarketOptions.MarketType": "spot",
        "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
        "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions.HttpEndpoint": "enabled",
        "MetadataOptions.HttpTokens": "required",
        "MetadataOptions.HttpPutResponseHopLimit": "2",
        "BlockDeviceMapping.1.DeviceName": "/dev/sda1",
        "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
        "BlockDeviceMapping.1.Ebs.VolumeSize": "200",
        "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
        "NetworkInterface.1.AssociatePublicIpAddress": "true",
        "NetworkInterface.1.DeleteOnTermination": "true",
    }
    assert {name: asked.get(name) for name in expected} == expected
    assert "InstanceMarketOptions.SpotOptions.MaxPrice" not in asked
    told = base64.b64decode(asked["UserData"]).decode()
    assert told.startswith("#cloud-config\n")
    assert "OPENSSH PRIVATE KEY" in told
    every = {**NAME, **request.tags}
    kinds = ("instance", "volume", "network-interface", "spot-instances-request")
    assert tags_of_request(asked) == dict.fromkeys(kinds, every)
    assert machine.state is MachineState.PENDING
    assert (machine.name, machine.market, machine.gpus) == ("chat-1", Market.SPOT, 1)
    assert (machine.ssh_user, machine.dialect, machine.address) == ("ubuntu", Dialect.AWS, None)


async def test_an_on_demand_vm_has_no_market_options_and_no_spot_request(aws: Make, ec2: FakeEc2) -> None:
    """The rest is the same."""
    await aws().launch(launch_request(market=Market.ON_DEMAND))
    (asked,) = ec2.of("RunInstances")
    assert not [name for name in asked if name.startswith("InstanceMarketOptions")]
    assert set(tags_of_request(asked)) == {"instance", "volume", "network-interface"}


async def test_a_vm_is_listed_with_its_address_and_gone_when_terminated(aws: Make, ec2: FakeEc2) -> None:
    """From launch to nothing: no disk, interface or spot request stays; group and key serve the service."""
    driver = aws()
    granted = await driver.launch(launch_request())
    (listed,) = await driver.list()
    assert listed.id == granted.id
    assert listed.id.startswith("us-east-1/i-")
    assert (listed.zone, listed.instance_type) == ("aws/us-east-1/us-east-1a", "g6.xlarge")
    assert (listed.market, listed.state, listed.address) == (Market.SPOT, MachineState.RUNNING, "192.0.2.7")
    assert dict(listed.tags) == {**NAME, **tags_for("chat", 900.0, "chat-1")}
    assert abs((listed.launched_at - granted.launched_at).total_seconds()) < 60
    there = {(thing.kind, thing.in_use) for thing in await driver.leftovers()}
    kinds = ("volume", "network-interface", "spot-request", "security-group", "key-pair")
    assert there == {(kind, True) for kind in kinds}
    await driver.terminate(granted.id)
    assert await driver.list() == []
    assert {thing.kind for thing in await driver.leftovers()} == {"security-group", "key-pair"}
    await driver.terminate(granted.id)


async def test_the_same_token_is_the_same_vm(aws: Make, ec2: FakeEc2) -> None:
    """A controller that crashed after it had asked asks again, and has one VM."""
    first = await aws().launch(launch_request())
    again = await aws().launch(launch_request())
    assert again.id == first.id
    assert len(ec2.instances()) == 1


async def test_a_token_for_something_else_is_refused_in_a_sentence(aws: Make, ec2: FakeEc2) -> None:
    """EC2 holds the token to what it was first used for."""
    driver = aws()
    await driver.launch(launch_request())
    with pytest.raises(CloudError, match=r"IdempotentParameterMismatch.*found by its name"):
        await driver.launch(launch_request(market=Market.ON_DEMAND))


async def test_an_answer_that_was_lost_is_asked_for_again_and_makes_no_second_vm(aws: Make, ec2: FakeEc2) -> None:
    """EC2 grants the VM and the connection breaks: the token brings the same one."""
    ec2.fail("RunInstances", hang_up=True, done=True)
    machine = await aws().launch(launch_request())
    assert [f"us-east-1/{instance.id}" for instance in ec2.instances()] == [machine.id]
    assert len(ec2.of("RunInstances")) == 2


async def test_a_breakdown_of_ec2_is_asked_again(aws: Make, ec2: FakeEc2) -> None:
    """InternalError is EC2's own trouble; the third time it works."""
    ec2.fail("DescribeInstances", "InternalError", times=2)
    assert await aws().list() == []
    assert len(ec2.of("DescribeInstances")) == 3


async def test_a_launch_that_was_given_up_is_ended_when_it_is_granted_after_all(aws: Make, ec2: FakeEc2) -> None:
    """Nobody waits any more while EC2 thinks; the VM that comes of it does not live on."""
    driver = aws()
    await driver.prepare("us-east-1", ["203.0.113.7/32"])
    ec2.fail("RunInstances", delay_s=0.3)
    running = asyncio.create_task(driver.run())
    try:
        launching = asyncio.create_task(driver.launch(launch_request()))
        await eventually(lambda: not any(fault.times for fault in ec2.faults), what="EC2 is thinking")
        launching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launching
        await eventually(lambda: "RunInstances" in ec2.actions)
        await eventually(lambda: "TerminateInstances" in ec2.actions and not ec2.instances())
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_vm_that_is_not_listed_yet_is_there_and_cannot_be_lost(aws: Make, ec2: FakeEc2) -> None:
    """EC2 lists late and does not know the id either; until then the driver remembers."""
    driver = aws()
    ec2.lagging = True
    granted = await driver.launch(launch_request())
    assert [machine.id for machine in await driver.list()] == [granted.id]
    with pytest.raises(CloudError, match=r"does not know .* yet"):
        await driver.terminate(granted.id)
    ec2.catch_up()
    await driver.terminate(granted.id)
    assert ec2.instances() == []


async def test_only_the_services_own_vms_are_listed_and_everyones_on_request(aws: Make, ec2: FakeEc2) -> None:
    """Another service's VM in the same account, and one that is nobody's of ours."""
    driver = aws()
    mine = await driver.launch(launch_request())
    request = launch_request(2)
    other = await driver.launch(replace(request, tags={**request.tags, "hedgeserve-service": "other"}))
    await driver.launch(replace(launch_request(3), tags={"team": "a"}))
    fresh = aws()
    assert [machine.id for machine in await fresh.list()] == [mine.id]
    assert {machine.id for machine in await fresh.everyone()} == {mine.id, other.id}


async def test_a_list_of_many_pages_is_read_to_its_end(aws: Make, ec2: FakeEc2) -> None:
    """Seven VMs, three on a page."""
    driver = aws()
    for number in range(7):
        await driver.launch(launch_request(number))
    ec2.page = 3
    assert len(await aws().list()) == 7
    assert [("NextToken" in asked) for asked in ec2.of("DescribeInstances")] == [False, True, True]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("pending", [MachineState.PENDING]),
        ("shutting-down", [MachineState.STOPPING]),
        ("stopping", [MachineState.STOPPED]),
        ("stopped", [MachineState.STOPPED]),
        ("terminated", []),
    ],
)
async def test_states(aws: Make, ec2: FakeEc2, state: str, expected: list[MachineState]) -> None:
    """A stopped VM's disk costs money; what shuts down needs nothing more; what is terminated is gone."""
    machine = await aws().launch(launch_request())
    ec2.set_state(machine.id.partition("/")[2], state)
    assert [machine.state for machine in await aws().list()] == expected


async def test_a_preempted_vm_is_gone_from_the_list(aws: Make, ec2: FakeEc2) -> None:
    """EC2 goes on telling of it for an hour, as terminated; we do not."""
    driver = aws()
    machine = await driver.launch(launch_request())
    await driver.list()
    ec2.preempt(machine.id.partition("/")[2])
    assert await driver.list() == []


async def test_regions_of_any_age_are_asked_each_with_its_own_signature(aws: Make, ec2: FakeEc2) -> None:
    """Libcloud knows 23 regions, and would sign with version 2 in some of them."""
    driver = aws(zones='["ap-southeast-3/ap-southeast-3a", "us-east-1/us-east-1a"]')
    there = await driver.launch(launch_request(1, zone="ap-southeast-3/ap-southeast-3a"))
    here = await driver.launch(launch_request(2))
    assert {machine.id for machine in await driver.list()} == {there.id, here.id}
    assert there.id.startswith("ap-southeast-3/")
    assert {request.region for request in ec2.answered} == {"ap-southeast-3", "us-east-1"}


@pytest.mark.parametrize(
    ("pools", "price"),
    [
        ('max_usd_per_hour = "0.50 USD/h"', "0.5"),
        ('max_usd_per_hour = "0.123456 USD/h"', "0.123456"),
        ("", None),
    ],
)
async def test_the_pools_limit_is_the_spot_vms_highest_price(
    aws: Make, ec2: FakeEc2, pools: str, price: str | None
) -> None:
    """Without one EC2's own limit, the on-demand price, holds."""
    await aws(pool=pools).launch(launch_request())
    (asked,) = ec2.of("RunInstances")
    assert asked.get("InstanceMarketOptions.SpotOptions.MaxPrice") == price


async def test_of_two_pools_the_one_without_a_limit_counts(aws: Make, ec2: FakeEc2) -> None:
    """A VM that any of its pools would take is not refused for its price."""
    more = """max_usd_per_hour = "0.50 USD/h"
        [[pools]]
        cloud = "aws"
        regions = ["us-east-1"]
        instance_types = ["g6.xlarge"]"""
    await aws(pool=more).launch(launch_request())
    (asked,) = ec2.of("RunInstances")
    assert "InstanceMarketOptions.SpotOptions.MaxPrice" not in asked


async def test_what_the_aws_table_says_is_in_the_request(aws: Make, ec2: FakeEc2) -> None:
    """User, instance profile, group of one's own, private addresses, size of the disk."""
    group = ec2.backend().create_security_group("mine", "of my own", vpc_id=None)
    profile = 'user = "ec2-user"\ninstance_profile = "weights"'
    driver = aws(
        aws=f'{profile}\nsecurity_groups = {{us-east-1 = "{group.id}"}}',
        vm='address = "private"\ndisk = "101 GiB"',
    )
    from moto.iam import iam_backends

    iam = iam_backends["123456789012"]["aws"]
    iam.reset()
    iam.create_instance_profile("weights", "/", [])
    machine = await driver.launch(launch_request())
    (asked,) = ec2.of("RunInstances")
    assert asked["IamInstanceProfile.Name"] == "weights"
    assert asked["NetworkInterface.1.SecurityGroupId.1"] == group.id
    assert asked["BlockDeviceMapping.1.Ebs.VolumeSize"] == "101"
    assert "NetworkInterface.1.AssociatePublicIpAddress" not in asked
    assert machine.ssh_user == "ec2-user"
    assert "CreateSecurityGroup" not in ec2.actions
    assert "ec2-user" in base64.b64decode(asked["UserData"]).decode()


async def test_nothing_secret_is_in_a_request_but_the_host_key_in_the_user_data(aws: Make, ec2: FakeEc2) -> None:
    """Tags and names are for everybody who may read the account."""
    await aws().launch(launch_request())
    for request in ec2.answered:
        for name, value in request.parameters.items():
            assert name == "UserData" or "PRIVATE" not in value


class RecordingHost:
    """Remembers what the fake has granted; a VM has no address until it is told."""

    def __init__(self) -> None:
        self.vms: dict[str, GrantedVm] = {}
        self.addresses: dict[str, str] = {}
        self.stopped: list[str] = []

    def start(self, vm: GrantedVm) -> None:
        """Granted."""
        self.vms[vm.name] = vm

    def address(self, name: str) -> str | None:
        """As the test has it."""
        return self.addresses.get(name)

    def stop(self, name: str) -> None:
        """Ended."""
        self.stopped.append(name)


async def test_what_the_fake_grants_is_handed_to_a_host(
    aws: Make, ec2: FakeEc2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User-data, key and tags as the VM would see them; pending until the host knows its address."""
    host = RecordingHost()
    monkeypatch.setattr(ec2, "host", host)
    driver = aws()
    machine = await driver.launch(launch_request())
    vm = host.vms["chat-1"]
    assert (vm.cloud, vm.zone, vm.spot, vm.ssh_user) == ("aws", "us-east-1a", True, "ubuntu")
    assert vm.authorized_key.split()[:2] == PUBLIC_KEY.split()[:2]
    assert vm.user_data.startswith("#cloud-config")
    assert vm.tags["hedgeserve-service"] == "chat"
    assert [(m.state, m.address) for m in await driver.list()] == [(MachineState.PENDING, None)]
    host.addresses["chat-1"] = "10.9.0.2"
    assert [(m.state, m.address) for m in await driver.list()] == [(MachineState.RUNNING, "10.9.0.2")]
    ec2.preempt(machine.id.partition("/")[2])
    assert host.stopped == ["chat-1"]
