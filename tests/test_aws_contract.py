"""The contract check itself must find what is wrong, and the documented policy must be what is used."""

import json
import re
from pathlib import Path

import pytest

from hedgeserve.drivers.awscloud.ec2 import Action, Ec2, Ec2Fault, Keys
from hedgeserve.drivers.tags import tags_for
from tests.clouds.contract_ec2 import check_parameters
from tests.clouds.ec2_bench import *  # noqa: F403
from tests.clouds.ec2_bench import Make, launch_request
from tests.clouds.fake_ec2 import ACCESS_KEY, SECRET_KEY, FakeEc2

DOC = Path(__file__).parent.parent / "docs" / "clouds" / "aws.md"


def policy() -> set[str]:
    """The actions that the policy in the documentation allows."""
    found = re.search(r"```json\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert found
    allowed: set[str] = set()
    for statement in json.loads(found[1])["Statement"]:
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
    return allowed


async def asked(aws: Make, ec2: FakeEc2) -> dict[str, str]:
    """A RunInstances request as the driver makes it."""
    await aws().launch(launch_request())
    return dict(ec2.of("RunInstances")[0])


async def test_the_drivers_own_request_is_found_good(aws: Make, ec2: FakeEc2) -> None:
    """What the mutations below start from."""
    assert check_parameters(list((await asked(aws, ec2)).items())) == []


@pytest.mark.parametrize(
    ("name", "becomes", "value", "problem"),
    [
        ("InstanceType", "InstancType", None, "InstancType: unknown parameter"),
        ("MinCount", None, None, "MinCount: required, missing"),
        ("MinCount", "MinCount", "one", "'one' is not a whole number"),
        ("InstanceMarketOptions.MarketType", None, "spott", "'spott' is none of"),
        ("NetworkInterface.1.SubnetId", "NetworkInterface.0.SubnetId", None, "a list is numbered .1, .2"),
        ("NetworkInterface.1.DeviceIndex", "NetworkInterface.DeviceIndex", None, "a list is numbered .1, .2"),
        ("NetworkInterface.1.DeleteOnTermination", None, "True", "neither true nor false"),
        ("TagSpecification.1.ResourceType", None, "machine", "'machine' is none of"),
        ("MetadataOptions.HttpTokens", "MetadataOptions", None, "is a structure already"),
        ("UserData", None, "#cloud-config", "not base64"),
        ("Version", None, "2014-01-01", "Version"),
        ("Action", None, "RunInstance", "there is no 'RunInstance'"),
    ],
)
async def test_a_wrong_field_is_found(
    aws: Make, ec2: FakeEc2, name: str, becomes: str | None, value: str | None, problem: str
) -> None:
    """One mistake each in a request that is good otherwise."""
    good = await asked(aws, ec2)
    was = good.pop(name)
    if not (becomes is None and value is None):
        good[becomes or name] = value if value is not None else was
    assert problem in "; ".join(check_parameters(list(good.items())))


def test_a_wrong_request_is_refused_and_remembered(ec2: FakeEc2) -> None:
    """So that a test fails even if the driver swallows the refusal."""
    api = Ec2(Keys(ACCESS_KEY, SECRET_KEY), "us-east-1", ec2.url)
    with pytest.raises(Ec2Fault, match="ContractViolation"):
        api.ask(Action.INSTANCES, Filterr=["x"])
    assert ec2.violations == ["DescribeInstances.Filterr: unknown parameter"]
    ec2.violations.clear()


@pytest.mark.parametrize("part", ["secret", "region", "body"])
def test_a_wrong_signature_is_found(ec2: FakeEc2, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Another secret key; a scope that was signed otherwise; a body that was changed on its way."""
    secret = SECRET_KEY if part != "secret" else "x" * 40
    api = Ec2(Keys(ACCESS_KEY, secret), "us-east-1", ec2.url)
    connection = api.connection
    signed = connection.pre_connect_hook

    def spoil(params: object, headers: dict[str, str]) -> object:
        if part == "region":
            monkeypatch.setattr(api, "region_name", "us-east-2")
            params, headers = signed(params, headers)
            headers["Authorization"] = headers["Authorization"].replace("us-east-2", "us-east-1")
        elif part == "body":
            connection.data += "&DryRun=true"
            params, headers = signed(params, headers)
        else:
            params, headers = signed(params, headers)
        return params, headers

    monkeypatch.setattr(connection, "pre_connect_hook", spoil)
    with pytest.raises(Ec2Fault, match="Signature: not of this request"):
        api.ask(Action.INSTANCES)
    ec2.violations.clear()


async def test_the_documented_policy_is_what_a_whole_life_needs_and_no_more(aws: Make, ec2: FakeEc2) -> None:
    """The fake refuses every action that the policy leaves out; each that it grants is used."""
    granted = policy()
    assert granted == {f"ec2:{action}" for action in Action} | {"ec2:CreateTags"}
    ec2.allowed = {action.removeprefix("ec2:") for action in granted}
    driver = aws(aws="placement_scores = true")
    await driver.prices("us-east-1", ["g6.xlarge"])
    await driver.prepare("us-east-1", ["198.51.100.1/32"])
    machine = await driver.launch(launch_request())
    await driver.list()
    await driver.terminate(machine.id)
    tags, backend = tags_for("chat", 900.0), ec2.backend()
    ec2.open_spot_request(tags)
    backend.create_tags([backend.create_volume(8, "us-east-1a").id], tags)
    subnet = next(iter(backend.subnets["us-east-1a"].values()))
    backend.create_tags([backend.create_network_interface(subnet, None).id], tags)
    for leftover in await driver.leftovers():
        await driver.clear(leftover)
    assert set(ec2.actions) == {action.value for action in Action}
