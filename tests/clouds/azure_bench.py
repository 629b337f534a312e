"""What tests of the Azure driver share: the fake, drivers with a test's patience, launches."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from hedgeserve.drivers.azure import AzureDriver
from hedgeserve.drivers.base import LaunchRequest, Machine, MachineState
from hedgeserve.drivers.tags import tags_for
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.specfile import parse_spec
from tests.clouds.fake_arm import TOKEN, FakeArm
from tests.conftest import eventually

SIZE = "Standard_NC24ads_A100_v4"
GROUP = "hedgeserve-small-eastus"
TOML = """
[service]
name = "small"
[model]
id = "demo"
engine = "demo"
[replicas]
count = 1
[timeouts]
lease = "900s"
[vm]
allow_from = ["203.0.113.7", "198.51.100.0/24"]
{vm}
{azure}
{extra}
[[pools]]
cloud = "azure"
zones = {zones}
instance_types = ["Standard_NC24ads_A100_v4"]
{pool}
"""


class Credential:
    """A token that is good for an hour, without azure-identity."""

    def __init__(self, token: str = TOKEN) -> None:
        self.token = token
        self.asked: list[str] = []

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        """As azure-identity's credentials do."""
        self.asked += scopes
        return AccessToken(self.token, int(datetime.now(UTC).timestamp()) + 3600)


class QuickDriver(AzureDriver):
    """The driver with a test's patience."""

    settle_s = 2.0
    setup_s = 2.0
    operation_pause_s = 0.01
    least_pause_s = 0.005
    power_age_s = 0.0


Make = Callable[..., QuickDriver]


@pytest.fixture
def azure() -> Iterator[FakeArm]:
    """The fake; a request that breaks the contract fails the test."""
    with FakeArm() as fake:
        yield fake
        fake.check()


@pytest.fixture
async def make(azure: FakeArm) -> AsyncIterator[Make]:
    """Builds drivers for the fake, and closes them."""
    made: list[QuickDriver] = []

    def build(
        *,
        vm: str = "",
        extra: str = "",
        pool: str = "",
        zones: str = '["eastus/1", "eastus/none"]',
        **options: Any,
    ) -> QuickDriver:
        toml = TOML.format(vm=vm, azure=azure.toml(), extra=extra, pool=pool, zones=zones)
        spec = parse_spec(toml, "small.toml", Path("/tmp"), {})
        made.append(QuickDriver(spec, {}, **{"credential": Credential(), **options}))
        return made[-1]

    yield build
    for driver in made:
        await driver.aclose()


def launch_request(
    name: str = "small-1", *, zone: str = "eastus/1", market: Market = Market.SPOT
) -> LaunchRequest:
    """A launch as the fleet asks for it."""
    offer = Offer(ZoneId(f"azure/{zone}"), SIZE, market, 1.3, datetime.now(UTC))
    return LaunchRequest(
        name=name,
        token=f"token-{name}",
        offer=offer,
        tags=tags_for("small", 900.0, name),
        authorized_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl service",
        host_key="-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n-----END OPENSSH PRIVATE KEY-----\n",
    )


async def running(driver: AzureDriver, count: int = 1) -> list[Machine]:
    """The VMs, once so many run and have an address."""

    async def look() -> list[Machine]:
        found = [m for m in await driver.list() if m.state is MachineState.RUNNING and m.address]
        return found if len(found) == count else []

    return await eventually(look)
