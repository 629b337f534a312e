"""What EC2 and the network say against it, in our vocabulary and in sentences; where credentials come from."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgeserve.drivers.awscloud.credentials import Credentials
from hedgeserve.drivers.awscloud.ec2 import Ec2Fault, Keys
from hedgeserve.drivers.awscloud.faults import GROUPS, explain
from hedgeserve.drivers.codes import NoAnswerError
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    PriceError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)
from tests.clouds.ec2_bench import *  # noqa: F403
from tests.clouds.ec2_bench import Make, aws_environ, launch_request
from tests.clouds.fake_ec2 import ACCESS_KEY, SECRET_KEY, FakeEc2


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        (
            "InsufficientInstanceCapacity",
            CapacityError,
            r"not start chat-1 \(g6\.xlarge\) in us-east-1a: EC2",
        ),
        ("InsufficientFreeAddressesInSubnet", CapacityError, r"name a larger one in \[aws\] subnets"),
        ("VcpuLimitExceeded", QuotaError, "Running On-Demand G and VT instances"),
        ("MaxSpotInstanceCountExceeded", QuotaError, "All G and VT Spot Instance Requests"),
        ("SpotMaxPriceTooLow", PriceError, "above the pool's max_usd_per_hour"),
        ("Unsupported", UnsupportedError, "EC2 says Unsupported"),
        ("InvalidAMIID.NotFound", UnsupportedError, "look at images and subnets"),
        ("OptInRequired", AuthError, "sign in to the AWS console"),
        ("ExpiredToken", AuthError, "aws sso login"),
        ("InvalidBlob", CloudError, "EC2 says InvalidBlob"),
    ],
)
async def test_a_refusal_is_told_at_once_in_its_class(
    aws: Make, ec2: FakeEc2, code: str, error: type[CloudError], sentence: str
) -> None:
    """Not one of them is asked again in place: no capacity comes as a 500, and stays no capacity."""
    ec2.fail("RunInstances", code, times=5)
    with pytest.raises(error, match=sentence) as raised:
        await aws().launch(launch_request())
    assert type(raised.value) is error
    assert len(ec2.of("RunInstances")) == 1


async def test_throttling_is_waited_out(aws: Make, ec2: FakeEc2) -> None:
    """EC2 asks for fewer calls, twice; then the launch works, with the same token."""
    ec2.fail("RunInstances", "RequestLimitExceeded", times=2)
    await aws().launch(launch_request())
    assert len(ec2.of("RunInstances")) == 3
    assert len(ec2.instances()) == 1


async def test_throttling_that_goes_on_is_told(aws: Make, ec2: FakeEc2) -> None:
    """Patience has an end."""
    ec2.fail("DescribeInstances", "RequestLimitExceeded", times=50)
    with pytest.raises(ThrottledError, match="could not list the VMs in us-east-1: EC2 says RequestLimitExceeded"):
        await aws().list()


async def test_a_missing_permission_is_named(aws: Make, ec2: FakeEc2) -> None:
    """And the blob that AWS adds for itself is left out."""
    ec2.allowed = {"DescribeSubnets"}
    with pytest.raises(AuthError, match=r"lack ec2:DescribeSecurityGroups; add it to .*aws\.md") as r:
        await aws().launch(launch_request())
    assert "Encoded" not in str(r.value)


async def test_a_server_that_is_not_there_is_a_sentence(aws: Make) -> None:
    """Asked three times, then said."""
    with pytest.raises(NoAnswerError, match=r"127\.0\.0\.1:1 cannot be reached"):
        await aws(endpoint="http://127.0.0.1:1").list()


async def test_a_server_that_does_not_answer_in_time_is_a_sentence(
    aws: Make, ec2: FakeEc2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times nothing."""
    monkeypatch.setattr("hedgeserve.drivers.awscloud.ec2._TIMEOUT_S", (1.0, 0.1))
    ec2.fail("DescribeInstances", times=3, delay_s=0.4)
    with pytest.raises(NoAnswerError, match="did not answer in time"):
        await aws().list()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Ec2Fault(400, "InvalidParameterValue", "Invalid value 'g99' for InstanceType."), UnsupportedError),
        (Ec2Fault(400, "InvalidParameterValue", "iamInstanceProfile.name is invalid"), CloudError),
        (Ec2Fault(503, "Http503", ""), ThrottledError),
        (Ec2Fault(500, "Strange", ""), NoAnswerError),
        (Ec2Fault(200, "NotXml", "x"), NoAnswerError),
        (ValueError("x"), CloudError),
        (CapacityError("already"), CapacityError),
    ],
)
def test_what_no_table_knows(fault: Exception, error: type[CloudError]) -> None:
    """Judged by its status, or by its words where EC2 uses one code for many things."""
    assert type(explain(fault, "do it")) is error


def test_every_code_stands_in_one_group_and_every_group_has_a_source() -> None:
    """Otherwise the order of the table would decide."""
    codes = [code for group in GROUPS for code in group.codes]
    assert len(codes) == len(set(codes))
    assert all(group.source.startswith("https://docs.aws.amazon.com/") for group in GROUPS)


# Credentials


def keys_of(directory: Path, profile: str = "", **environ: str) -> Keys:
    """What is found in an environment without a default key."""
    base = aws_environ(directory)
    del base["AWS_ACCESS_KEY_ID"], base["AWS_SECRET_ACCESS_KEY"]
    return Credentials(profile, base | environ).keys()


def test_no_credentials_at_all_say_what_to_do(tmp_path: Path) -> None:
    """The first thing that a new user meets."""
    with pytest.raises(AuthError, match=r"no AWS credentials were found; run `aws configure` or `aws sso login`"):
        keys_of(tmp_path)


def test_profiles_of_the_environment_and_of_the_table(tmp_path: Path) -> None:
    """A profile in model.toml goes before keys in the environment; one in the environment does not."""
    (tmp_path / "credentials").write_text(
        "[one]\naws_access_key_id = K1\naws_secret_access_key = S1\n"
        "[two]\naws_access_key_id = K2\naws_secret_access_key = S2\naws_session_token = T2\n"
    )
    assert keys_of(tmp_path, AWS_PROFILE="one").access_key == "K1"
    assert keys_of(tmp_path, "two", AWS_PROFILE="one").token == "T2"
    own = {"AWS_ACCESS_KEY_ID": "K0", "AWS_SECRET_ACCESS_KEY": "S0"}
    assert keys_of(tmp_path, "two", **own).access_key == "K2"
    assert keys_of(tmp_path, AWS_PROFILE="one", **own).access_key == "K0"


def test_a_profile_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With both places where it may be corrected."""
    with pytest.raises(AuthError, match=r'profile "gone" is in neither .*correct \[aws\] profile or AWS_PROFILE'):
        keys_of(tmp_path, "gone")


def test_an_sso_login_that_was_never_made_says_so(tmp_path: Path) -> None:
    """With the very command."""
    (tmp_path / "config").write_text(
        "[profile team]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\nregion = us-east-1\n"
        "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://never.invalid/start\n"
    )
    with pytest.raises(AuthError, match="run `aws sso login --profile team`"):
        keys_of(tmp_path, "team")


def test_keys_print_as_nothing(tmp_path: Path) -> None:
    """Whoever logs them logs nothing."""
    keys = keys_of(tmp_path, AWS_ACCESS_KEY_ID="AKIASECRET", AWS_SECRET_ACCESS_KEY="very-secret")
    assert "secret" not in repr(keys).lower().replace("secret_key", "")


async def test_credentials_that_change_are_used_from_the_next_call_on(
    aws: Make, ec2: FakeEc2, tmp_path: Path
) -> None:
    """A process that gives short-lived keys, as single sign-on tools do: each call is signed with fresh ones."""
    told = tmp_path / "told.json"
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = cat {told}\n")

    def tell(key: str, secret: str) -> None:
        ec2.keys = {key: secret}
        told.write_text(
            json.dumps(
                {
                    "Version": 1,
                    "AccessKeyId": key,
                    "SecretAccessKey": secret,
                    "SessionToken": "t",
                    "Expiration": soon(),
                }
            )
        )

    tell("KEYONE", "one")
    driver = aws(aws='profile = "p"', environ=aws_environ(tmp_path))
    assert await driver.list() == []
    tell("KEYTWO", "two")
    assert await driver.list() == []


async def test_keys_that_aws_refuses_are_looked_for_anew(aws: Make, ec2: FakeEc2, tmp_path: Path) -> None:
    """Somebody has made new keys and written them into the file: the call after the refusal works."""
    path = tmp_path / "credentials"
    path.write_text(f"[p]\naws_access_key_id = OLD\naws_secret_access_key = {SECRET_KEY}\n")
    driver = aws(aws='profile = "p"')
    with pytest.raises(AuthError, match="check the access key, this machine's clock"):
        await driver.list()
    path.write_text(f"[p]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    assert await driver.list() == []


@pytest.mark.parametrize(
    ("environ", "region", "url"),
    [
        ({}, "us-east-1", "https://ec2.us-east-1.amazonaws.com"),
        ({}, "cn-north-1", "https://ec2.cn-north-1.amazonaws.com.cn"),
        ({"AWS_ENDPOINT_URL": "http://h:1/"}, "us-east-1", "http://h:1"),
        ({"AWS_ENDPOINT_URL": "http://h:1", "AWS_ENDPOINT_URL_EC2": "http://e:2"}, "us-east-1", "http://e:2"),
        (
            {"AWS_ENDPOINT_URL": "http://h:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "us-east-1",
            "https://ec2.us-east-1.amazonaws.com",
        ),
    ],
)
def test_endpoints(environ: dict[str, str], region: str, url: str) -> None:
    """The public one, unless the environment names another; model.toml goes before both."""
    assert Credentials("", environ).url(region) == url
    assert Credentials("", environ, "http://own:3").url(region) == "http://own:3"


def soon() -> str:
    """Five minutes from now, within which botocore renews credentials at every use."""
    return (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
