"""The Azure driver against a fake Resource Manager that holds every request to Azure's own description."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from hedgeserve.drivers.azure import AzureDriver
from hedgeserve.drivers.base import LaunchRequest, Machine, MachineState
from hedgeserve.drivers.tags import SERVICE, tags_for
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    PriceError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.specfile import parse_spec
from tests.clouds.arm_world import DISK, IP, NETWORK, NIC, VM
from tests.clouds.fake_arm import SUBSCRIPTION, TOKEN, FakeArm, Trouble, price_row
from tests.clouds.host import GrantedVm, NoHost
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


def request(name: str = "small-1", *, zone: str = "eastus/1", market: Market = Market.SPOT) -> LaunchRequest:
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


# Launching


async def test_a_spot_vm_comes_with_all_it_needs_in_one_request(azure: FakeArm, make: Make) -> None:
    """Group, firewall and network once; then one PUT, whose parts all say that they go with the VM."""
    driver = make(pool='max_usd_per_hour = "1.50 USD/h"')
    machine = await driver.launch(request())
    assert (machine.id, machine.zone) == (f"eastus/{GROUP}/small-1", "azure/eastus/1")
    assert [r.path.rpartition("/")[2] for r in azure.sent("PUT")] == [
        GROUP,
        "hedgeserve-nsg",
        "hedgeserve-vnet",
        "small-1",
    ]
    body = azure.sent("PUT")[-1].body
    asked = body["properties"]
    assert body["zones"] == ["1"]
    assert (asked["priority"], asked["evictionPolicy"], asked["billingProfile"]) == (
        "Spot",
        "Delete",
        {"maxPrice": 1.5},
    )
    assert asked["storageProfile"]["imageReference"] == {
        "publisher": "microsoft-dsvm",
        "offer": "ubuntu-hpc",
        "sku": "2204",
        "version": "latest",
    }
    assert asked["storageProfile"]["osDisk"]["diskSizeGB"] == 200
    assert asked["osProfile"]["linuxConfiguration"]["disablePasswordAuthentication"] is True
    assert base64.b64decode(asked["osProfile"]["customData"]).startswith(b"#cloud-config\n")
    nic = asked["networkProfile"]["networkInterfaceConfigurations"][0]
    address = nic["properties"]["ipConfigurations"][0]["properties"]["publicIPAddressConfiguration"]
    parts = (nic["properties"], address["properties"], asked["storageProfile"]["osDisk"])
    assert [part["deleteOption"] for part in parts] == ["Delete"] * 3
    assert body["tags"] == nic["tags"] == address["tags"] == dict(request().tags)


async def test_an_on_demand_vm_without_a_zone_says_neither_spot_nor_zone(azure: FakeArm, make: Make) -> None:
    """Zone "none" leaves the choice to Azure; what is only for spot VMs is not sent."""
    driver = make()
    machine = await driver.launch(request(zone="eastus/none", market=Market.ON_DEMAND))
    body = azure.sent("PUT")[-1].body
    assert "zones" not in body
    assert body["properties"]["priority"] == "Regular"
    assert not {"evictionPolicy", "billingProfile"} & set(body["properties"])
    assert machine.zone == "azure/eastus/none"
    assert (await running(driver))[0].market is Market.ON_DEMAND


async def test_a_spot_vm_without_a_limit_may_cost_as_much_as_on_demand(azure: FakeArm, make: Make) -> None:
    """A maximum of -1 is Azure's word for that: it is not taken back for its price."""
    await make().launch(request())
    assert azure.sent("PUT")[-1].body["properties"]["billingProfile"] == {"maxPrice": -1}


async def test_the_list_tells_all_of_a_vm(azure: FakeArm, make: Make) -> None:
    """Pending while Azure makes it; then running, with the address, in the words of the fleet."""
    azure.world.create_s = 0.3
    driver = make()
    driver.settle_s = 0.0
    await driver.launch(request())
    (machine,) = await driver.list()
    assert machine.state is MachineState.PENDING
    (machine,) = await running(driver)
    assert machine.address == "192.0.2.7"
    assert (machine.market, machine.instance_type, machine.gpus) == (Market.SPOT, SIZE, 1)
    assert machine.tags == dict(request().tags)
    assert machine.ssh_user == "azureuser"
    assert (datetime.now(UTC) - machine.launched_at).total_seconds() < 60


async def test_the_same_launch_again_is_the_same_vm(azure: FakeArm, make: Make) -> None:
    """A launch whose answer was lost is asked for again: nothing is made or changed."""
    driver = make()
    first = await driver.launch(request())
    again = await driver.launch(request())
    assert again.id == first.id
    assert azure.world.names(VM) == ["small-1"]
    assert len(azure.world.names(NIC)) == len(azure.world.names(IP)) == 1


async def test_a_vm_of_the_same_name_that_is_not_ours_is_left_alone(azure: FakeArm, make: Make) -> None:
    """It is not taken for ours, whatever it is."""
    driver = make()
    await driver.launch(request())
    azure.world.vm("small-1")["tags"] = {}
    with pytest.raises(CloudError, match="is not ours; it is left alone"):
        await driver.launch(request())


async def test_a_launch_does_not_wait_for_the_end_of_provisioning(azure: FakeArm, make: Make) -> None:
    """Minutes are not waited for: once there was time for a refusal, the VM counts as granted."""
    azure.world.create_s = 60.0
    driver = make()
    driver.settle_s = 0.1
    machine = await driver.launch(request())
    assert machine.state is MachineState.PENDING
    assert azure.sent("GET", "/operations/")


async def test_user_settings_are_honoured(azure: FakeArm, make: Make) -> None:
    """Group prefix, image, user, subnet, disk, and no public address where the controller is inside."""
    subnet = "/subscriptions/user/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/s"
    image = "/subscriptions/user/resourceGroups/i/providers/Microsoft.Compute/images/baked"
    azure_table = azure.toml() + f'resource_group = "Team-A"\nimage = "{image}"\nuser = "me"\n'
    azure_table += f'subnets = {{eastus = "{subnet}"}}\n'
    toml = TOML.format(
        vm='address = "private"\ndisk = "64 GiB"', azure=azure_table, extra="", pool="", zones='["eastus/1"]'
    )
    driver = QuickDriver(parse_spec(toml, "small.toml", Path("/tmp"), {}), {}, credential=Credential())
    try:
        await driver.launch(request())
        asked = azure.sent("PUT")[-1].body["properties"]
        ip = asked["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"][0]
        assert azure.sent("PUT")[-1].path.split("/")[4] == "team-a-eastus"
        assert asked["storageProfile"]["imageReference"] == {"id": image}
        assert asked["storageProfile"]["osDisk"]["diskSizeGB"] == 64
        assert asked["osProfile"]["adminUsername"] == "me"
        assert ip["properties"]["subnet"]["id"] == subnet
        assert "publicIPAddressConfiguration" not in ip["properties"]
        assert azure.world.names(NETWORK) == azure.world.names(IP) == []
        assert (await running(driver))[0].address == "192.0.2.7"
        assert not azure.sent("GET", "/publicIPAddresses")
    finally:
        await driver.aclose()


async def test_private_addresses_need_a_subnet(azure: FakeArm, make: Make) -> None:
    """In a network of our own nobody could reach the VM, and it could reach nobody."""
    with pytest.raises(CloudError, match=r"needs a subnet.*azure\.subnets = \{eastus"):
        await make(vm='address = "private"').launch(request())


# Refusals


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "said"),
    [
        (
            409,
            "SkuNotAvailable",
            "The requested tier is currently not available.",
            CapacityError,
            "SkuNotAvailable",
        ),
        (
            409,
            "OperationNotAllowed",
            "Operation could not be completed as it results in exceeding approved LowPriorityCores quota.",
            QuotaError,
            "all spot vCPUs of the region",
        ),
        (
            409,
            "OperationNotAllowed",
            "Operation could not be completed as it results in exceeding approved standardNCADSA100v4Family Cores "
            "quota.",
            QuotaError,
            "the quota is standardNCADSA100v4Family Cores: ask for more",
        ),
        (409, "OperationNotAllowed", "The VM is marked for deletion.", CloudError, "marked for deletion"),
        (
            400,
            "BadRequest",
            "The selected VM size 'X' cannot boot Hypervisor Generation '1'.",
            UnsupportedError,
            "generation 2",
        ),
        (404, "PlatformImageNotFound", "The image was not found.", UnsupportedError, "azure.image"),
        (400, "ResourcePurchaseValidationFailed", "Terms.", UnsupportedError, "az vm image terms accept"),
        (
            400,
            "InvalidParameter",
            "The value X of parameter vmSize is not valid.",
            UnsupportedError,
            "vm list-skus",
        ),
        (
            409,
            "MissingSubscriptionRegistration",
            "The subscription is not registered to use namespace 'Microsoft.Network'.",
            AuthError,
            "az provider register --namespace Microsoft.Network",
        ),
        (
            403,
            "AuthorizationFailed",
            "The client 'me' with object id 'x' does not have authorization to perform action "
            "'Microsoft.Compute/virtualMachines/write' over scope '/subscriptions/s' or the scope is invalid.",
            AuthError,
            "may not do 'Microsoft.Compute/virtualMachines/write' on '/subscriptions/s'; give the login a role",
        ),
        (
            403,
            "LinkedAuthorizationFailed",
            "The client has permission to perform action 'Microsoft.Compute/virtualMachines/write' on scope '/a'; "
            "however, it does not have permission to perform action(s) "
            "'Microsoft.Network/virtualNetworks/subnets/join/action' on the linked scope(s) '/b'.",
            AuthError,
            "'Microsoft.Network/virtualNetworks/subnets/join/action' on '/b'",
        ),
        (403, "ScopeLocked", "The scope is locked.", AuthError, "az lock list"),
        (400, "Weird", "Nobody knows.", CloudError, "Azure could not make the VM small-1: Weird: Nobody knows"),
    ],
)
async def test_a_refusal_is_told_in_our_words(
    azure: FakeArm, make: Make, status: int, code: str, message: str, kind: type[CloudError], said: str
) -> None:
    """The class is what a planner reads, the sentence what a person does about it."""
    azure.troubles = [Trouble("PUT", "/virtualMachines/", code, message, status=status)]
    with pytest.raises(CloudError) as refused:
        await make().launch(request())
    assert type(refused.value) is kind
    assert said in str(refused.value)


async def test_a_refusal_that_comes_after_the_acceptance_is_told_and_cleaned_up(
    azure: FakeArm, make: Make
) -> None:
    """The request is accepted, its operation fails; the interface and address that were made do not stay."""
    azure.troubles = [Trouble("PUT", "/virtualMachines/", "ZonalAllocationFailed", "No capacity.", late=True)]
    driver = make()
    with pytest.raises(CapacityError, match="ZonalAllocationFailed"):
        await driver.launch(request())
    await eventually(lambda: not (azure.world.names(VM) or azure.world.names(NIC) or azure.world.names(IP)))
    assert await driver.list() == []


async def test_a_vm_that_fails_later_is_listed_as_stopped_and_leaves_nothing(azure: FakeArm, make: Make) -> None:
    """Nobody waits for the launch any more; the list says that the VM must be ended."""
    azure.world.create_s = 0.3
    azure.troubles = [Trouble("PUT", "/virtualMachines/", "AllocationFailed", "No capacity.", late=True)]
    driver = make()
    driver.settle_s = 0.0
    machine = await driver.launch(request())

    async def stopped() -> bool:
        return [m.state for m in await driver.list()] == [MachineState.STOPPED]

    await eventually(stopped)
    await driver.terminate(machine.id)
    await eventually(lambda: not (azure.world.names(VM) or azure.world.names(IP)))


async def test_a_spot_price_above_the_limit_is_a_price_error(azure: FakeArm, make: Make) -> None:
    """The fake compares as Azure does: with the limit that it was told."""
    azure.world.spot_usd[SIZE] = 2.0
    with pytest.raises(PriceError, match="raise max_usd_per_hour"):
        await make(pool='max_usd_per_hour = "1.50 USD/h"').launch(request())


async def test_throttling_is_waited_out_as_long_as_azure_says(
    azure: FakeArm, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 with Retry-After 17: the next attempt comes after 17 s, and succeeds."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    azure.troubles = [
        Trouble("PUT", "/virtualMachines/", "TooManyRequests", "Slow.", status=429, retry_after="17")
    ]
    driver = make()
    monkeypatch.setattr("hedgeserve.drivers.remote.asyncio.sleep", note)
    await driver.launch(request())
    assert any(17.0 <= pause < 18.0 for pause in pauses)
    assert azure.world.names(VM) == ["small-1"]


async def test_a_server_error_is_tried_again_and_makes_no_second_vm(
    azure: FakeArm, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 and 503 say nothing about the zone."""
    monkeypatch.setattr("hedgeserve.drivers.remote._PATIENCE_S", (0.0, 0.0))
    azure.troubles = [
        Trouble("PUT", "/virtualMachines/", "InternalServerError", "Oops.", status=500),
        Trouble("GET", "/virtualMachines\\?", "ServiceUnavailable", "Busy.", status=503),
    ]
    driver = make()
    await driver.launch(request())
    assert len(await driver.list()) == 1
    azure.troubles = [Trouble("GET", "/virtualMachines\\?", "ServiceUnavailable", "Busy.", status=503, times=9)]
    with pytest.raises(ThrottledError, match="could not list the VMs in eastus: ServiceUnavailable"):
        await driver.list()


async def test_a_launch_that_is_given_up_does_not_leave_its_vm(azure: FakeArm, make: Make) -> None:
    """The deadline passes while Azure thinks; when the VM is granted after all, it is ended."""
    azure.troubles = [Trouble("PUT", "/virtualMachines/", slow_s=0.5)]
    driver = make()
    background = asyncio.create_task(driver.run())
    try:
        await driver._prepare("eastus")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await driver.launch(request())
        await eventually(lambda: azure.sent("DELETE", "/virtualMachines/small-1"))
        await eventually(lambda: not azure.world.names(VM))
        assert azure.world.names(IP) == azure.world.names(DISK) == []
    finally:
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)


# The life of a VM


async def test_ending_a_vm_takes_all_that_it_had(azure: FakeArm, make: Make) -> None:
    """No address, disk or interface stays; ending it twice is a success."""
    driver = make()
    machine = await driver.launch(request())
    await running(driver)
    assert [len(azure.world.names(kind)) for kind in (NIC, IP, DISK)] == [1, 1, 1]
    await driver.terminate(machine.id)
    assert azure.sent("DELETE")[-1].query["forceDeletion"] == "true"
    await eventually(lambda: not azure.world.names(VM))
    assert [azure.world.names(kind) for kind in (NIC, IP, DISK)] == [[], [], []]
    assert await driver.list() == []
    await driver.terminate(machine.id)


async def test_a_vm_on_its_way_out_is_stopping(azure: FakeArm, make: Make) -> None:
    """Between the request and its end."""
    azure.world.delete_s = 30.0
    driver = make()
    machine = await driver.launch(request())
    await driver.terminate(machine.id)
    assert [m.state for m in await driver.list()] == [MachineState.STOPPING]


async def test_a_spot_vm_that_azure_takes_back_vanishes_with_all_it_had(azure: FakeArm, make: Make) -> None:
    """Eviction policy Delete; nothing is left to pay for."""
    driver = make()
    await driver.launch(request())
    await running(driver)
    azure.world.evict("small-1")
    assert await driver.list() == []
    assert [azure.world.names(kind) for kind in (NIC, IP, DISK)] == [[], [], []]


async def test_a_vm_that_shut_itself_down_is_stopped(azure: FakeArm, make: Make) -> None:
    """Its dead-man switch turns it off, Azure goes on billing: it must be ended."""
    driver = make()
    await driver.launch(request())
    await running(driver)
    azure.world.shut_down("small-1")
    assert [m.state for m in await driver.list()] == [MachineState.STOPPED]


async def test_a_login_that_may_not_see_power_states_still_lists(azure: FakeArm, make: Make) -> None:
    """The list of the subscription is refused; that of the group is what counts."""
    azure.troubles = [Trouble("GET", "/virtualMachines\\?.*statusOnly", "AuthorizationFailed", "No.", status=403)]
    driver = make()
    await driver.launch(request())
    assert len(await running(driver)) == 1


async def test_lists_of_several_pages_are_read_to_their_end(azure: FakeArm, make: Make) -> None:
    """Seven VMs on pages of three."""
    azure.page_size = 3
    driver = make()
    await asyncio.gather(*(driver.launch(request(f"small-{number}")) for number in range(7)))
    assert {m.name for m in await running(driver, 7)} == {f"small-{number}" for number in range(7)}
    assert len(azure.sent("PUT", "/networkSecurityGroups/")) == 1


async def test_a_list_costs_few_requests(azure: FakeArm, make: Make) -> None:
    """One a region once addresses are known, and one a minute for the power states of all."""
    driver = make()
    await driver.launch(request())
    await running(driver)
    driver.power_age_s = 60.0
    before = len(azure.requests)
    await driver.list()
    assert [r.path.rpartition("/")[2] for r in azure.requests[before:]] == ["virtualMachines"]


async def test_before_anything_was_made_there_is_nothing(azure: FakeArm, make: Make) -> None:
    """No resource group, hence no VMs: not an error."""
    assert await make().list() == []


async def test_other_services_are_seen_but_not_taken_for_ours(azure: FakeArm, make: Make) -> None:
    """Everyone's VMs are found by the tag of their groups; a list shows only our own."""
    driver = make()
    await driver.launch(request())
    azure.world.put_group("other-eastus", {"location": "eastus", "tags": {SERVICE: "other"}})
    azure.world.put_group("foreign", {"location": "eastus", "tags": {}})
    for group, tags in (("other-eastus", {SERVICE: "other"}), ("other-eastus", {}), ("foreign", {SERVICE: "no"})):
        azure.world.add(group, VM, f"vm-{len(tags)}-{group}", tags=tags)
    assert {m.name for m in await driver.everyone()} == {"small-1", "vm-1-other-eastus"}
    assert {m.name for m in await driver.list()} == {"small-1"}


async def test_the_host_is_handed_what_the_first_boot_needs(azure: FakeArm, make: Make) -> None:
    """For test-beds that boot something: user-data, key, user, and the word when it is over."""

    class Host(NoHost):
        booted: list[GrantedVm] = []  # noqa: RUF012
        ended: list[str] = []  # noqa: RUF012

        def start(self, vm: GrantedVm) -> None:
            self.booted.append(vm)

        def stop(self, name: str) -> None:
            self.ended.append(name)

    azure.world.host = host = Host()
    driver = make()
    machine = await driver.launch(request())
    (vm,) = host.booted
    assert (vm.cloud, vm.name, vm.zone, vm.spot, vm.ssh_user) == (
        "azure",
        "small-1",
        "eastus/1",
        True,
        "azureuser",
    )
    assert vm.user_data.startswith("#cloud-config\n")
    assert vm.authorized_key == request().authorized_key
    await driver.terminate(machine.id)
    assert host.ended == ["small-1"]


# Network


async def test_the_firewall_lets_in_only_who_may_and_follows_changes(azure: FakeArm, make: Make) -> None:
    """Made once; left alone while it is right; mended when the networks or its rules change."""
    driver = make()
    await driver.prepare("eastus", ["2001:db8::/48", "203.0.113.7/32"])
    rules = {
        r["name"]: r["properties"]
        for r in azure.sent("PUT", "/networkSecurityGroups/")[-1].body["properties"]["securityRules"]
    }
    assert rules["hedgeserve-ipv4"]["sourceAddressPrefix"] == "203.0.113.7/32"
    assert rules["hedgeserve-ipv6"]["sourceAddressPrefix"] == "2001:db8::/48"
    assert rules["hedgeserve-ipv4"]["destinationPortRanges"] == ["22", "8000"]
    assert rules["hedgeserve-others"]["access"] == "Deny"
    await driver.prepare("eastus", ["2001:db8::/48", "203.0.113.7/32"])
    assert len(azure.sent("PUT")) == 3
    await driver.prepare("eastus", ["198.51.100.0/24", "203.0.113.8/32"])
    assert len(azure.sent("PUT")) == 4
    rule = azure.sent("PUT")[-1].body["properties"]["securityRules"][0]["properties"]
    assert rule["sourceAddressPrefixes"] == ["198.51.100.0/24", "203.0.113.8/32"]


async def test_a_group_that_is_somebody_elses_is_not_used(azure: FakeArm, make: Make) -> None:
    """What does not bear our tag is never touched."""
    azure.world.put_group(GROUP, {"location": "eastus", "tags": {"team": "web"}})
    with pytest.raises(CloudError, match=r"not this service's; write another prefix as azure\.resource_group"):
        await make().launch(request())
    assert not azure.sent("PUT")


async def test_a_group_that_is_being_deleted_is_not_used(azure: FakeArm, make: Make) -> None:
    """Its end is waited for, by who tries again."""
    azure.world.put_group(GROUP, {"location": "eastus", "tags": {SERVICE: "small"}})
    azure.world.delete_s = 60.0
    azure.world.delete_group(GROUP)
    with pytest.raises(CloudError, match="still being deleted"):
        await make().launch(request())


# Leftovers


async def test_leftovers_are_found_and_taken_away_in_order_the_group_last(azure: FakeArm, make: Make) -> None:
    """What is in use is said to be; once the VMs are gone all of it goes, and nothing is left."""
    driver = make()
    machine = await driver.launch(request())
    await running(driver)
    found = await driver.leftovers()
    assert [left.kind for left in found] == [
        "network interface",
        "public address",
        "disk",
        "firewall",
        "network",
        "resource group",
    ]
    assert all(left.in_use and left.service == "small" for left in found)
    with pytest.raises(CloudError, match="NicInUse"):
        await driver.clear(found[0])
    with pytest.raises(CloudError, match="has more in it than what HedgeServe leaves: small-1;"):
        await driver.clear(found[-1])
    await driver.terminate(machine.id)
    await eventually(lambda: not azure.world.names(VM))
    found = await driver.leftovers()
    assert [left.kind for left in found] == ["firewall", "network", "resource group"]
    assert not any(left.in_use for left in found)
    for left in found:
        await driver.clear(left)
        await driver.clear(left)
    assert await driver.leftovers() == []
    assert not azure.world.groups
    await driver.launch(request("small-2"))
    assert azure.world.names(VM) == ["small-2"]


async def test_a_leaked_disk_and_address_are_found(azure: FakeArm, make: Make) -> None:
    """Something that no VM uses: the disk by its name, for the API gives it no tags."""
    driver = make()
    await driver.launch(request())
    await running(driver)
    azure.world.add(
        GROUP, IP, "small-7-ip-1234", tags=tags_for("small", 900.0, "small-7"), createdTime="2026-11-24T01:02:03Z"
    )
    azure.world.add(GROUP, DISK, "small-7-disk")
    azure.world.add(GROUP, DISK, "precious")
    loose = {left.name: left for left in await driver.leftovers() if not left.in_use}
    assert set(loose) == {"small-7-ip-1234", "small-7-disk"}
    assert loose["small-7-ip-1234"].created_at == datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)
    for left in loose.values():
        await driver.clear(left)
    assert len(azure.world.names(IP)) == 1
    assert "precious" in azure.world.names(DISK)


async def test_a_group_with_something_else_in_it_is_not_deleted(azure: FakeArm, make: Make) -> None:
    """The last resort takes nothing that is not ours."""
    driver = make()
    await driver._prepare("eastus")
    azure.world.add(GROUP, DISK, "precious")
    with pytest.raises(CloudError, match="precious; take that away first"):
        await driver.clear((await driver.leftovers())[-1])
    assert GROUP in azure.world.groups


# Logging in


async def test_a_token_comes_from_the_az_on_the_path(
    azure: FakeArm, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure-identity's own chain, once; all threads share the token, whose scope is the endpoint's host."""
    for key, value in azure.environ(tmp_path).items():
        monkeypatch.setenv(key, value)
    driver = make(credential=None)
    await driver.launch(request())
    await asyncio.gather(*(driver.list() for _ in range(8)))
    (call,) = (tmp_path / "az-calls").read_text().splitlines()
    assert call == f"account get-access-token --output json --resource {azure.url}"


async def test_nobody_logged_in_is_told_what_to_do(
    azure: FakeArm, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, not the chain's story."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    with pytest.raises(AuthError, match="nobody is logged in; run `az login`"):
        await make(credential=None).list()
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    with pytest.raises(AuthError, match="login settings cannot be used"):
        await make(credential=None).list()


async def test_what_entra_says_against_a_login_is_passed_on(azure: FakeArm, make: Make) -> None:
    """The AADSTS sentence, without its trace ids."""
    from azure.core.exceptions import ClientAuthenticationError

    class Refused(Credential):
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            raise ClientAuthenticationError(
                "Authentication failed: AADSTS7000215: Invalid client secret provided. Trace ID: 1234 Correlation"
            )

    with pytest.raises(AuthError) as refused:
        await make(credential=Refused()).list()
    assert "AADSTS7000215: Invalid client secret provided.;" in str(refused.value)
    assert "Trace" not in str(refused.value)


async def test_a_token_that_was_refused_is_fetched_anew(azure: FakeArm, make: Make) -> None:
    """Once; a second refusal is an error that says so."""
    credential = Credential()
    driver = make(credential=credential)
    await driver.launch(request())
    azure.tokens = {"new"}
    credential.token = "new"
    assert len(await driver.list()) == 1
    assert len(credential.asked) == 2
    azure.tokens = set()
    with pytest.raises(AuthError, match="ExpiredAuthenticationToken"):
        await driver.list()


async def test_the_subscription_is_that_of_the_environment_given(azure: FakeArm) -> None:
    """The one of the file first; without any, a sentence says where to write it."""
    toml = TOML.format(vm="", azure=f'[azure]\nendpoint = "{azure.url}"', extra="", pool="", zones='["eastus/1"]')
    spec = parse_spec(toml, "small.toml", Path("/tmp"), {})
    driver = QuickDriver(spec, {"AZURE_SUBSCRIPTION_ID": SUBSCRIPTION}, credential=Credential())
    lost = QuickDriver(spec, {}, credential=Credential())
    try:
        await driver.launch(request())
        with pytest.raises(AuthError, match=r"write azure\.subscription, or set AZURE_SUBSCRIPTION_ID"):
            await lost.list()
    finally:
        await driver.aclose()
        await lost.aclose()


async def test_an_azure_that_cannot_be_reached_is_told_so() -> None:
    """A sentence without a traceback of urllib3 in it."""
    toml = TOML.format(
        vm="",
        azure=f'[azure]\nendpoint = "http://127.0.0.1:9"\nsubscription = "{SUBSCRIPTION}"',
        extra="",
        pool="",
        zones='["eastus/1"]',
    )
    driver = QuickDriver(parse_spec(toml, "small.toml", Path("/tmp"), {}), {}, credential=Credential())
    try:
        with pytest.raises(CloudError, match=r"could not list the VMs in eastus: it cannot be reached"):
            await driver.list()
    finally:
        await driver.aclose()


# Prices


async def test_prices_are_azures_list_prices_of_linux_vms(azure: FakeArm, make: Make) -> None:
    """Spot and on-demand, in all zones of the region; Windows, Low Priority and reservations are not ours."""
    azure.page_size = 2
    azure.prices = [
        price_row(SIZE, 3.673),
        price_row(SIZE, 9.0, productName="Virtual Machines NCads Series Windows"),
        price_row(SIZE, 1.1, skuName="NC24ads A100 v4 Low Priority", meterName="NC24ads A100 v4 Low Priority"),
        price_row(SIZE, 1.4, skuName="NC24ads A100 v4 Spot"),
        price_row(SIZE, 1.3, skuName="NC24ads A100 v4 Spot", effectiveStartDate="2026-06-01T00:00:00Z"),
        price_row(SIZE, 1.0, skuName="NC24ads A100 v4 Spot", effectiveStartDate="2099-01-01T00:00:00Z"),
        price_row(SIZE, 20000.0, type="Reservation"),
        price_row(SIZE, 4.0, armRegionName="westus"),
        price_row("Standard_NC4as_T4_v3", 0.5),
    ]
    driver = make(prices_url=azure.prices_url)
    assert await driver.prices("eastus", [SIZE]) == {
        ("eastus/1", SIZE, Market.SPOT): 1.3,
        ("eastus/none", SIZE, Market.SPOT): 1.3,
        ("eastus/1", SIZE, Market.ON_DEMAND): 3.673,
        ("eastus/none", SIZE, Market.ON_DEMAND): 3.673,
    }
    assert len(azure.price_queries) == 3


async def test_prices_that_cannot_be_read_are_a_cloud_error(make: Make) -> None:
    """The last ones stand, as the common half says."""
    with pytest.raises(CloudError, match="Azure could not tell the prices of eastus"):
        await make(prices_url="http://127.0.0.1:9/prices").prices("eastus", [SIZE])


async def test_an_emulator_is_not_asked_for_prices(azure: FakeArm, make: Make) -> None:
    """Nor is the public list, for a cloud that is not the public one."""
    assert await make().prices("eastus", [SIZE]) == {}


# The contract itself


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("properties", "priority"), "Spott", "is not one of VirtualMachinePriorityTypes"),
        (("properties", "evictPolicy"), "Delete", "VirtualMachineProperties has no such property"),
        (("properties", "storageProfile", "osDisk", "diskSizeGB"), "200", "the API wants int"),
        (("properties", "osProfile", "linuxConfiguration", "disablePasswordAuthentication"), "true", "wants bool"),
        (("properties", "osProfile", "adminPassword"), "x", "a password where a key is given"),
        (("properties", "osProfile", "customData"), "#cloud-config", "not in base64"),
        (("properties", "billingProfile", "maxPrice"), 0, "-1, or above 0"),
        (("properties", "vmId"), "x", "only for reading"),
        (("zones",), ["1", "2"], "a VM has one zone"),
        (("zone",), "1", "VirtualMachine has no such property"),
        (("location",), None, "location"),
        (("properties", "networkProfile", "networkApiVersion"), "2025-05-01", "is not one of NetworkApiVersion"),
    ],
)
async def test_a_wrong_field_does_not_pass(
    azure: FakeArm, make: Make, monkeypatch: pytest.MonkeyPatch, where: tuple[str, ...], value: Any, said: str
) -> None:
    """What the driver sends is right, and would be caught if it were not."""
    from hedgeserve.drivers.azurecloud import bodies

    honest = bodies.vm_body

    def broken(*given: Any, **options: Any) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(json.dumps(honest(*given, **options)))
        inside = body
        for key in where[:-1]:
            inside = inside[key]
        inside[where[-1]] = value
        return body

    monkeypatch.setattr(bodies, "vm_body", broken)
    with pytest.raises(CloudError, match="InvalidRequestContent"):
        await make().launch(request())
    found = list(azure.violations)
    azure.violations.clear()
    assert any(said in violation for violation in found), found


async def test_a_wrong_query_version_or_path_does_not_pass(azure: FakeArm, make: Make) -> None:
    """As far as the API's own packages tell."""
    from tests.clouds.contract_arm import ArmRequest, violations

    sent = azure.sent
    await make().launch(request())
    good = sent("PUT")[-1]
    assert violations(good) == []
    for change, said in (
        ({"query": {**good.query, "force": "true"}}, "query parameter force is unknown"),
        ({"query": {"api-version": "2024-11-02"}}, "api-version 2024-11-02 is not one of"),
        ({"query": {}}, "api-version is missing"),
        ({"path": good.path.replace("virtualMachines", "virtualMachine")}, "no operation PUT"),
        ({"path": good.path.replace(SUBSCRIPTION, "mine")}, "no operation PUT"),
        ({"headers": {}}, "there is no bearer token"),
        ({"headers": {**good.headers, "if-none-match": "x"}}, "If-None-Match takes only *"),
    ):
        wrong: ArmRequest = replace(good, **change)  # type: ignore[arg-type]
        assert any(said in violation for violation in violations(wrong)), said
