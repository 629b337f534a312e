"""A driver of AWS in front of a fake of it, for tests: fixtures to import, and a spec to start from."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.drivers import aws as aws_module
from hedgeserve.drivers import remote
from hedgeserve.drivers.aws import AwsDriver
from hedgeserve.drivers.base import LaunchRequest
from hedgeserve.drivers.tags import tags_for
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import Spec
from hedgeserve.specfile import parse_spec
from tests.clouds.fake_ec2 import ACCESS_KEY, SECRET_KEY, FakeEc2

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6e1Dk0YdOLm8tGdZ0ZrXbZk9iQq0R6bH3w1l5bqk2P hedgeserve"

SPEC = """
[service]
name = "chat"
state_dir = "{state}"

[model]
id = "org/model"

[vm]
allow_from = {allow_from}
{vm}
[aws]
endpoint = "{endpoint}"
{aws}
[[pools]]
cloud = "aws"
zones = {zones}
instance_types = {types}
{pool}
"""


def aws_spec(directory: Path, endpoint: str, **changes: Any) -> Spec:
    """A service on L4s in two zones, which lets in one address."""
    values = {
        "state": str(directory / "state"),
        "allow_from": '["203.0.113.7"]',
        "vm": "",
        "endpoint": endpoint,
        "aws": "",
        "zones": '["us-east-1/us-east-1a", "us-east-1/us-east-1b"]',
        "types": '["g6.xlarge"]',
        "pool": "",
    }
    return parse_spec(SPEC.format(**{**values, **changes}), "model.toml", directory, {})


def aws_environ(directory: Path) -> dict[str, str]:
    """An environment with keys that the fake knows, and nothing of this machine's owner."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": str(directory / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(directory / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def launch_request(
    number: int = 1,
    *,
    zone: str = "us-east-1/us-east-1a",
    market: Market = Market.SPOT,
    kind: str = "g6.xlarge",
    service: str = "chat",
    **changes: Any,
) -> LaunchRequest:
    """What the fleet would ask for."""
    name = f"{service}-{number}"
    request = LaunchRequest(
        name=name,
        token=f"token-{name}",
        offer=Offer(ZoneId(f"aws/{zone}"), kind, market, 0.34, datetime.now(UTC)),
        tags=tags_for(service, 900.0, name),
        authorized_key=PUBLIC_KEY,
        host_key="-----BEGIN OPENSSH PRIVATE KEY-----\nhost\n-----END OPENSSH PRIVATE KEY-----\n",
    )
    return replace(request, **changes)


@pytest.fixture(scope="module")
def ec2_server() -> Iterator[FakeEc2]:
    """One server for a whole file: moto takes its time to start."""
    fake = FakeEc2()
    yield fake
    fake.close()


@pytest.fixture
def ec2(ec2_server: FakeEc2) -> Iterator[FakeEc2]:
    """An empty account. Fails the test whose driver sent something that EC2's description does not allow."""
    ec2_server.reset()
    yield ec2_server
    assert ec2_server.violations == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience in milliseconds."""
    monkeypatch.setattr(remote, "_PATIENCE_S", (0.001,) * 3)
    monkeypatch.setattr(aws_module, "_ASK_AGAIN_S", (0.001, 0.001))


Make = Callable[..., AwsDriver]


@pytest.fixture
async def aws(ec2: FakeEc2, quick: None, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes drivers in front of the fake: ``aws(zones=...)`` with another spec, ``environ=`` with other keys."""
    made: list[AwsDriver] = []

    def make(*, environ: dict[str, str] | None = None, endpoint: str = "", **changes: Any) -> AwsDriver:
        spec = aws_spec(tmp_path, endpoint or ec2.url, **changes)
        made.append(AwsDriver(spec, environ if environ is not None else aws_environ(tmp_path)))
        return made[-1]

    yield make
    for driver in made:
        await driver.aclose()


__all__ = ["Make", "aws", "aws_environ", "aws_spec", "ec2", "ec2_server", "launch_request", "quick"]
