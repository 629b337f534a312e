"""What the GCP driver needs of an account, and what it does while Compute Engine takes its time."""

import asyncio
import re
from pathlib import Path

import pytest

from hedgeserve.drivers import gcp as gcp_module
from hedgeserve.drivers.base import MachineState
from hedgeserve.errors import AuthError, CapacityError
from hedgeserve.replica import Market
from tests.clouds.fake_gce import FakeGce
from tests.clouds.gce_bench import *  # noqa: F403
from tests.clouds.gce_bench import ZONE, Make, launch_request
from tests.conftest import eventually

DOCUMENT = Path(__file__).parent.parent / "docs" / "clouds" / "gcp.md"
# By Google's reference of each method; the image is public, and prices are said to need more than the role.
NEEDED = {
    "instances.insert": (
        "instances.create",
        "instances.setLabels",
        "instances.setMetadata",
        "instances.setTags",
        "disks.create",
        "disks.setLabels",
        "subnetworks.use",
        "subnetworks.useExternalIp",
    ),
    "instances.get": ("instances.get",),
    "instances.delete": ("instances.delete",),
    "instances.aggregatedList": ("instances.list",),
    "disks.aggregatedList": ("disks.list",),
    "disks.delete": ("disks.delete",),
    "firewalls.get": ("firewalls.get",),
    "firewalls.list": ("firewalls.list",),
    "firewalls.insert": ("firewalls.create", "networks.updatePolicy"),
    "firewalls.patch": ("firewalls.update", "networks.updatePolicy"),
    "firewalls.delete": ("firewalls.delete", "networks.updatePolicy"),
    "zoneOperations.get": ("zoneOperations.get",),
    "globalOperations.get": ("globalOperations.get",),
    "images.list": (),
    "advice.capacityHistory": (),
}


async def test_the_role_in_the_documentation_is_what_is_asked_for(gce: FakeGce, make: Make) -> None:
    """A whole life is played; the role has what its requests need, and nothing else."""
    driver = make()
    await driver.launch(launch_request())
    await make(allow_from='["198.51.100.0/24"]').launch(launch_request("chat-2"))
    gce.world.asked.clear()
    await driver.launch(launch_request())
    for disk in gce.world.disks.values():
        disk["autoDelete"] = False
    await driver.prices("us-central1", ["g2-standard-8"])
    for machine in await driver.list():
        await driver.terminate(machine.id)
    assert await driver.list() == []
    for left in await driver.leftovers():
        await driver.clear(left)
    methods = set(gce.methods())
    assert methods == set(NEEDED)
    needed = {f"compute.{one}" for method in methods for one in NEEDED[method]}
    assert set(re.findall(r"^  - (compute\.\w+\.\w+)$", DOCUMENT.read_text("utf-8"), re.M)) == needed


async def test_a_launch_is_watched_until_it_has_failed(gce: FakeGce, make: Make) -> None:
    """However long its operation runs."""
    driver = make()
    await driver.launch(launch_request())
    gce.operation_s = 0.2
    gce.fault("POST", "/instances$", code="ZONE_RESOURCE_POOL_EXHAUSTED")
    with pytest.raises(CapacityError):
        await driver.launch(launch_request("chat-2"))
    assert len([one for one in gce.methods() if one == "zoneOperations.get"]) > 2


async def test_a_launch_that_takes_too_long_goes_on_in_the_list(
    gce: FakeGce, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither failed nor done."""
    driver = make()
    await driver.launch(launch_request())
    monkeypatch.setattr(gcp_module, "_GRANT_S", 0.05)
    gce.operation_s = 60.0
    machine = await driver.launch(launch_request("chat-2"))
    found = {one.id: one.state for one in await driver.list()}
    assert found[machine.id] is MachineState.PENDING


async def test_a_vm_granted_to_a_launch_that_was_given_up_is_ended(gce: FakeGce, make: Make) -> None:
    """The call in its thread cannot be called back, but what it got can."""
    driver = make()
    await driver.launch(launch_request())
    gce.fault("POST", "/instances$", delay_s=0.3)
    launch = asyncio.create_task(driver.launch(launch_request("chat-2")))
    await eventually(lambda: len(gce.calls("instances.insert")) == 2)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    run = asyncio.create_task(driver.run())

    async def only_one() -> bool:
        return len(gce.calls("instances.delete")) > 0 and len(await driver.list()) == 1

    await eventually(only_one, within_s=20)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [one.name for one in await driver.list()] == ["chat-1"]


async def test_offers_have_live_prices(gce: FakeGce, make: Make) -> None:
    """As long as the driver runs."""
    money = {"currencyCode": "USD", "units": "0", "nanos": 111_000_000}
    gce.world.prices["g2-standard-8"] = [
        {"listPrice": money, "interval": {"startTime": "2026-02-01T00:00:00Z"}},
    ]
    driver = make()
    run = asyncio.create_task(driver.run())

    async def live() -> bool:
        offers = await driver.offers()
        return any(one.zone == f"gcp/{ZONE}" and one.usd_per_hour == 0.111 for one in offers)

    await eventually(live)
    assert {one.market for one in await driver.offers()} <= {Market.SPOT, Market.ON_DEMAND}
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_key_file_that_comes_later_is_used(gce: FakeGce, make: Make, tmp_path: Path) -> None:
    """Without a restart."""
    file = tmp_path / "later.json"
    driver = make(environ={"GOOGLE_APPLICATION_CREDENTIALS": str(file)})
    with pytest.raises(AuthError, match="cannot be read"):
        await driver.list()
    gce.key_file(file)
    assert await driver.list() == []


async def test_a_token_that_expires_is_renewed(gce: FakeGce, make: Make) -> None:
    """Before a request is made with it."""
    gce.tokens.lifetime_s = 1.0
    driver = make()
    await driver.list()
    await driver.list()
    assert len(gce.tokens.asked) == 2
