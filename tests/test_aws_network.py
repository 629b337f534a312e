"""Firewall, subnets, keys, images, prices and leftovers in a fake EC2."""

from typing import Any

import pytest

from hedgeserve.drivers.awscloud.images import architecture
from hedgeserve.drivers.awscloud.network import key_name
from hedgeserve.drivers.base import Leftover
from hedgeserve.drivers.tags import tags_for
from hedgeserve.errors import CloudError, UnsupportedError
from hedgeserve.replica import Market
from tests.clouds.ec2_bench import *  # noqa: F403
from tests.clouds.ec2_bench import PUBLIC_KEY, Make, launch_request
from tests.clouds.ec2_wire import tag_specifications
from tests.clouds.fake_ec2 import FakeEc2, FakeImage

HOME, OFFICE, SIX = "203.0.113.7/32", "198.51.100.0/24", "2001:db8::/32"


def group_of(ec2: FakeEc2, name: str = "hedgeserve-chat") -> Any:
    """The security group of this name."""
    groups = [group for vpc in ec2.backend().groups.values() for group in vpc.values()]
    return next(group for group in groups if group.name == name)


def let_in(ec2: FakeEc2) -> set[tuple[str, str]]:
    """Port and network of each rule that the group has."""
    return {
        (f"{rule.ip_protocol}/{rule.from_port}-{rule.to_port}", next(iter(rule.ip_range.values()), "?"))
        for rule in group_of(ec2).ingress_rules
    }


async def test_the_firewall_lets_in_the_given_networks_on_two_ports_and_bears_the_tags(
    aws: Make, ec2: FakeEc2
) -> None:
    """SSH and engine, for IPv4 and IPv6; asked again nothing changes."""
    driver = aws()
    await driver.prepare("us-east-1", [HOME, SIX])
    expected = {(f"tcp/{port}-{port}", network) for port in (22, 8000) for network in (HOME, SIX)}
    assert let_in(ec2) == expected
    (made,) = ec2.of("CreateSecurityGroup")
    (kind, tags), *_ = tag_specifications(made)
    assert (kind, dict(tags)) == ("security-group", {"Name": "hedgeserve-chat", **tags_for("chat", 900.0)})
    await driver.prepare("us-east-1", [HOME, SIX])
    assert ec2.actions.count("AuthorizeSecurityGroupIngress") == 1
    assert "RevokeSecurityGroupIngress" not in ec2.actions


async def test_a_controller_that_has_moved_lets_itself_in_before_it_shuts_the_old_place_out(
    aws: Make, ec2: FakeEc2
) -> None:
    """New rules first, then the old ones go."""
    driver = aws()
    await driver.prepare("us-east-1", [HOME])
    await driver.prepare("us-east-1", [OFFICE])
    assert let_in(ec2) == {("tcp/22-22", OFFICE), ("tcp/8000-8000", OFFICE)}
    changes = [action for action in ec2.actions if "Ingress" in action]
    authorize, revoke = "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"
    assert changes == [authorize, authorize, revoke]


async def test_a_rule_that_somebody_has_added_is_taken_back(aws: Make, ec2: FakeEc2) -> None:
    """The group is ours: the whole world on all ports is no rule of ours."""
    driver = aws()
    await driver.prepare("us-east-1", [HOME])
    group = group_of(ec2)
    ec2.backend().authorize_security_group_ingress(group.id, "-1", None, None, [{"CidrIp": "0.0.0.0/0"}])
    await driver.prepare("us-east-1", [HOME])
    assert let_in(ec2) == {("tcp/22-22", HOME), ("tcp/8000-8000", HOME)}


async def test_a_group_of_our_name_that_is_not_ours_is_left_alone(aws: Make, ec2: FakeEc2) -> None:
    """Somebody else's rules are not touched."""
    ec2.backend().create_security_group("hedgeserve-chat", "somebody's", vpc_id=None)
    with pytest.raises(CloudError, match=r"is not ours; rename it, or name one in \[aws\] security_groups"):
        await aws().launch(launch_request())
    assert "AuthorizeSecurityGroupIngress" not in ec2.actions
    assert ec2.instances() == []


async def test_a_group_that_somebody_removed_is_made_anew(aws: Make, ec2: FakeEc2) -> None:
    """The launch that finds it missing fails, the next one works."""
    driver = aws()
    await driver.prepare("us-east-1", [HOME])
    driver._prepared.add("us-east-1")
    ec2.backend().delete_security_group(group_id=group_of(ec2).id)
    ec2.fail("RunInstances", "InvalidGroup.NotFound")
    with pytest.raises(CloudError, match=r"InvalidGroup\.NotFound"):
        await driver.launch(launch_request())
    await driver.launch(launch_request())
    assert ec2.actions.count("CreateSecurityGroup") == 2


async def test_a_subnet_by_zone_brings_its_vpc_and_the_group_there(aws: Make, ec2: FakeEc2) -> None:
    """One zone has a subnet of the user's own VPC, the other its default one: two VPCs, two groups."""
    vpc = ec2.backend().create_vpc("10.7.0.0/16")
    subnet = ec2.backend().create_subnet(vpc.id, "10.7.1.0/24", availability_zone="us-east-1b")
    driver = aws(aws=f'subnets = {{us-east-1b = "{subnet.id}"}}')
    await driver.launch(launch_request(1, zone="us-east-1/us-east-1a"))
    await driver.launch(launch_request(2, zone="us-east-1/us-east-1b"))
    default, own = ec2.of("RunInstances")
    assert own["NetworkInterface.1.SubnetId"] == subnet.id != default["NetworkInterface.1.SubnetId"]
    first, second = (asked["NetworkInterface.1.SecurityGroupId.1"] for asked in (default, own))
    assert first != second
    assert [asked["VpcId"] for asked in ec2.of("CreateSecurityGroup")].count(vpc.id) == 1


async def test_a_subnet_in_the_wrong_zone_is_named(aws: Make, ec2: FakeEc2) -> None:
    """A slip of the pen in model.toml."""
    vpc = ec2.backend().create_vpc("10.7.0.0/16")
    subnet = ec2.backend().create_subnet(vpc.id, "10.7.1.0/24", availability_zone="us-east-1b")
    with pytest.raises(UnsupportedError, match=f"names {subnet.id} for us-east-1a, but it lies in us-east-1b"):
        await aws(aws=f'subnets = {{us-east-1a = "{subnet.id}"}}').launch(launch_request())
    with pytest.raises(UnsupportedError, match="names subnet-0 for us-east-1a, which is not there"):
        await aws(aws='subnets = {us-east-1a = "subnet-0"}').launch(launch_request())


async def test_a_zone_without_a_subnet_is_said_so_and_the_others_work(aws: Make, ec2: FakeEc2) -> None:
    """As in accounts whose default VPC is older than the zone."""
    for subnets in ec2.backend().subnets.values():
        for subnet in [s for s in subnets.values() if s.availability_zone == "us-east-1a"]:
            ec2.backend().delete_subnet(subnet.id)
    driver = aws()
    with pytest.raises(UnsupportedError, match=r'us-east-1a has no default subnet; .*us-east-1a = "subnet-'):
        await driver.launch(launch_request(1))
    await driver.launch(launch_request(2, zone="us-east-1/us-east-1b"))


async def test_a_key_is_imported_once_under_a_name_of_its_own(aws: Make, ec2: FakeEc2) -> None:
    """Two launches, a restart: one key pair. Another key is another key pair."""
    driver = aws()
    await driver.launch(launch_request(1))
    await driver.launch(launch_request(2))
    await aws().launch(launch_request(3))
    assert ec2.actions.count("ImportKeyPair") == 2
    (name,) = ec2.backend().key_pairs
    assert name == key_name("chat", PUBLIC_KEY)
    assert key_name("chat", PUBLIC_KEY.replace("hedgeserve", "another comment")) == name
    assert key_name("chat", PUBLIC_KEY.replace("AAAAC3", "AAAAC4")) != name


async def test_a_key_that_somebody_removed_is_imported_anew(aws: Make, ec2: FakeEc2) -> None:
    """The launch that finds it missing fails, the next one works."""
    driver = aws()
    await driver.launch(launch_request(1))
    ec2.backend().key_pairs.clear()
    with pytest.raises(CloudError, match=r"InvalidKeyPair\.NotFound"):
        await driver.launch(launch_request(2))
    await driver.launch(launch_request(2))


async def test_the_newest_image_of_the_right_architecture_is_taken(aws: Make, ec2: FakeEc2) -> None:
    """Asked for once a day; old, unfinished and foreign ones are passed over."""
    base = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)"
    ec2.images = {
        "old": FakeImage("ami-old", f"{base} 20250101", "2025-01-01T00:00:00.000Z"),
        "new": FakeImage("ami-new", f"{base} 20261001", "2026-10-01T00:00:00.000Z", root="/dev/xvda", gib=75),
        "young": FakeImage("ami-young", f"{base} 20261101", "2026-11-01T00:00:00.000Z", state="pending"),
        "other": FakeImage("ami-other", "Deep Learning AMI (Amazon Linux 2)", "2026-11-01T00:00:00.000Z"),
        "arm": FakeImage(
            "ami-arm",
            "Deep Learning ARM64 Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261001",
            "2026-10-01T00:00:00.000Z",
            architecture="arm64",
        ),
    }
    driver = aws(types='["g6.xlarge", "g5g.xlarge"]')
    await driver.launch(launch_request(1))
    await driver.launch(launch_request(2))
    await driver.launch(launch_request(3, kind="g5g.xlarge"))
    asked = ec2.of("RunInstances")
    assert [(a["ImageId"], a["BlockDeviceMapping.1.DeviceName"]) for a in asked] == [
        ("ami-new", "/dev/xvda"),
        ("ami-new", "/dev/xvda"),
        ("ami-arm", "/dev/sda1"),
    ]
    searches = ec2.of("DescribeImages")
    assert len(searches) == 2
    assert all(search["Owner.1"] == "amazon" for search in searches)


async def test_a_pinned_image_is_taken_as_it_is(aws: Make, ec2: FakeEc2) -> None:
    """Of whatever name and owner."""
    ec2.images["mine"] = FakeImage("ami-mine", "baked", "2026-01-01T00:00:00.000Z", root="/dev/xvda")
    await aws(aws='images = {us-east-1 = "ami-mine"}').launch(launch_request())
    (asked,) = ec2.of("RunInstances")
    assert (asked["ImageId"], asked["BlockDeviceMapping.1.DeviceName"]) == ("ami-mine", "/dev/xvda")


@pytest.mark.parametrize(
    ("images", "pin", "sentence"),
    [
        ([], "", r'us-east-1 has no image "Deep Learning Base OSS .*name an AMI with an NVIDIA driver in \[aws\]'),
        ([], "ami-no", "names ami-no for us-east-1, which is not there"),
        ([FakeImage("ami-1", "n", "c", architecture="arm64")], "ami-1", "is for arm64, and .* needs x86_64"),
        ([FakeImage("ami-1", "n", "c", state="failed")], "ami-1", "ami-1 in us-east-1 is failed"),
        ([FakeImage("ami-1", "n", "c", gib=300)], "ami-1", r'needs 300 GiB; raise vm.disk \("200 GiB"\)'),
    ],
)
async def test_an_image_that_cannot_be_used_is_said_so(
    aws: Make, ec2: FakeEc2, images: list[FakeImage], pin: str, sentence: str
) -> None:
    """Before anything is launched."""
    ec2.images = {image.id: image for image in images}
    with pytest.raises(UnsupportedError, match=sentence):
        await aws(aws=f'images = {{us-east-1 = "{pin}"}}' if pin else "").launch(launch_request())
    assert ec2.instances() == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("g6.xlarge", "x86_64"),
        ("g6e.12xlarge", "x86_64"),
        ("gr6.4xlarge", "x86_64"),
        ("p5.48xlarge", "x86_64"),
        ("p6-b200.48xlarge", "x86_64"),
        ("g5g.xlarge", "arm64"),
        ("p6e-gb200.36xlarge", "arm64"),
    ],
)
def test_architectures(kind: str, expected: str) -> None:
    """GPUs beside Graviton and Grace need images for ARM."""
    assert architecture(kind) == expected


async def test_spot_prices_are_the_latest_of_each_zone_and_reach_the_offers(aws: Make, ec2: FakeEc2) -> None:
    """The history has old rows too; a zone without a price keeps the catalogue's."""
    ec2.spot_prices = [
        ("us-east-1a", "g6.xlarge", 0.40, "2026-11-01T10:00:00.000Z"),
        ("us-east-1a", "g6.xlarge", 0.31, "2026-11-01T12:00:00.000Z"),
        ("us-east-1a", "g6.xlarge", 0.35, "2026-11-01T11:00:00.000Z"),
    ]
    driver = aws()
    prices = await driver.prices("us-east-1", ["g6.xlarge"])
    assert prices == {("us-east-1/us-east-1a", "g6.xlarge", Market.SPOT): 0.31}
    (asked,) = ec2.of("DescribeSpotPriceHistory")
    assert (asked["ProductDescription.1"], asked["InstanceType.1"]) == ("Linux/UNIX", "g6.xlarge")
    offers = await driver.offers()
    assert {offer.zone for offer in offers} == {"aws/us-east-1/us-east-1a", "aws/us-east-1/us-east-1b"}


async def test_placement_scores_are_asked_for_once_an_hour_and_only_where_wanted(aws: Make, ec2: FakeEc2) -> None:
    """They come by zone id, which differs from account to account."""
    ids = {zone.name: zone.zone_id for zone in ec2.backend().describe_availability_zones()}
    ec2.scores = {ids["us-east-1a"]: 9, ids["us-east-1b"]: 3}
    await aws().prices("us-east-1", ["g6.xlarge"])
    assert "GetSpotPlacementScores" not in ec2.actions
    driver = aws(aws="placement_scores = true")
    await driver.prices("us-east-1", ["g6.xlarge"])
    await driver.prices("us-east-1", ["g6.xlarge"])
    assert ec2.actions.count("GetSpotPlacementScores") == 1
    assert driver.scores == {"us-east-1/us-east-1a": 9, "us-east-1/us-east-1b": 3}


async def test_all_that_is_left_can_be_cleared_in_the_order_in_which_it_is_told(aws: Make, ec2: FakeEc2) -> None:
    """A disk, an interface and a waiting spot request of a VM that is no more, then group and key."""
    driver = aws()
    machine = await driver.launch(launch_request())
    await driver.terminate(machine.id)
    tags = tags_for("chat", 900.0, "chat-1")
    backend = ec2.backend()
    volume = backend.create_volume(8, "us-east-1a")
    backend.create_tags([volume.id], {"Name": "chat-1", **tags})
    subnet = next(iter(backend.subnets["us-east-1a"].values()))
    interface = backend.create_network_interface(subnet, None, group_ids=[group_of(ec2).id])
    backend.create_tags([interface.id], tags)
    request = ec2.open_spot_request(tags)
    backend.create_volume(8, "us-east-1a")
    left = await driver.leftovers()
    assert [(thing.kind, thing.in_use) for thing in left] == [
        ("spot-request", False),
        ("volume", False),
        ("network-interface", False),
        ("security-group", True),
        ("key-pair", True),
    ]
    assert {thing.service for thing in left} == {"chat"}
    assert {left[0].id, left[1].id, left[2].id} == {request, volume.id, interface.id}
    assert left[1].created_at is not None
    group = left[3]
    with pytest.raises(CloudError, match=r"DependencyViolation.*try again when the VMs are gone"):
        await driver.clear(group)
    for thing in left:
        await driver.clear(thing)
    assert await driver.leftovers() == []
    assert len(backend.volumes) == 1  # somebody else's
    for thing in left:
        await driver.clear(thing)
    await driver.launch(launch_request(2))
    assert let_in(ec2)


async def test_what_is_no_thing_of_aws_is_not_cleared(aws: Make) -> None:
    """Rather a sentence than a guess."""
    with pytest.raises(CloudError, match="AWS has no castle that could be removed"):
        await aws().clear(Leftover("aws", "us-east-1", "castle", "c-1", "chat"))
