"""The Azure driver against a fake Resource Manager that holds every request to Azure's own description."""

import asyncio
import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hedgeserve.drivers.base import MachineState
from hedgeserve.drivers.tags import SERVICE
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    PriceError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)
from hedgeserve.replica import Market
from hedgeserve.specfile import parse_spec
from tests.clouds.arm_world import DISK, IP, NETWORK, NIC, VM
from tests.clouds.azure_bench import *  # noqa: F403
from tests.clouds.azure_bench import GROUP, SIZE, TOML, Credential, Make, QuickDriver, launch_request, running
from tests.clouds.fake_arm import FakeArm, Trouble
from tests.clouds.host import GrantedVm, NoHost
from tests.conftest import eventually

# Launching


async def test_a_spot_vm_comes_with_all_it_needs_in_one_request(azure: FakeArm, make: Make) -> None:
    """Group, firewall and network once; then one PUT, whose parts all say that they go with the VM."""
    driver = make(pool='max_usd_per_hour = "1.50 USD/h"')
    machine = await driver.launch(launch_request())
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
    assert body["tags"] == nic["tags"] == address["tags"] == dict(launch_request().tags)


async def test_an_on_demand_vm_without_a_zone_says_neither_spot_nor_zone(azure: FakeArm, make: Make) -> None:
    """Zone "none" leaves the choice to Azure; what is only for spot VMs is not sent."""
    driver = make()
    machine = await driver.launch(launch_request(zone="eastus/none", market=Market.ON_DEMAND))
    body = azure.sent("PUT")[-1].body
    assert "zones" not in body
    assert body["properties"]["priority"] == "Regular"
    assert not {"evictionPolicy", "billingProfile"} & set(body["properties"])
    assert machine.zone == "azure/eastus/none"
    assert (await running(driver))[0].market is Market.ON_DEMAND


async def test_a_spot_vm_without_a_limit_may_cost_as_much_as_on_demand(azure: FakeArm, make: Make) -> None:
    """A maximum of -1 is Azure's word for that: it is not taken back for its price."""
    await make().launch(launch_request())
    assert azure.sent("PUT")[-1].body["properties"]["billingProfile"] == {"maxPrice": -1}


async def test_the_list_tells_all_of_a_vm(azure: FakeArm, make: Make) -> None:
    """Pending while Azure makes it; then running, with the address, in the words of the fleet."""
    azure.world.create_s = 0.3
    driver = make()
    driver.settle_s = 0.0
    await driver.launch(launch_request())
    (machine,) = await driver.list()
    assert machine.state is MachineState.PENDING
    (machine,) = await running(driver)
    assert machine.address == "192.0.2.7"
    assert (machine.market, machine.instance_type, machine.gpus) == (Market.SPOT, SIZE, 1)
    assert machine.tags == dict(launch_request().tags)
    assert machine.ssh_user == "azureuser"
    assert (datetime.now(UTC) - machine.launched_at).total_seconds() < 60


async def test_the_same_launch_again_is_the_same_vm(azure: FakeArm, make: Make) -> None:
    """A launch whose answer was lost is asked for again: nothing is made or changed."""
    driver = make()
    first = await driver.launch(launch_request())
    again = await driver.launch(launch_request())
    assert again.id == first.id
    assert azure.world.names(VM) == ["small-1"]
    assert len(azure.world.names(NIC)) == len(azure.world.names(IP)) == 1


async def test_a_vm_of_the_same_name_that_is_not_ours_is_left_alone(azure: FakeArm, make: Make) -> None:
    """It is not taken for ours, whatever it is."""
    driver = make()
    await driver.launch(launch_request())
    azure.world.vm("small-1")["tags"] = {}
    with pytest.raises(CloudError, match="is not ours; it is left alone"):
        await driver.launch(launch_request())


async def test_a_launch_does_not_wait_for_the_end_of_provisioning(azure: FakeArm, make: Make) -> None:
    """Minutes are not waited for: once there was time for a refusal, the VM counts as granted."""
    azure.world.create_s = 60.0
    driver = make()
    driver.settle_s = 0.1
    machine = await driver.launch(launch_request())
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
        await driver.launch(launch_request())
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
        await make(vm='address = "private"').launch(launch_request())


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
        await make().launch(launch_request())
    assert type(refused.value) is kind
    assert said in str(refused.value)


async def test_a_refusal_that_comes_after_the_acceptance_is_told_and_cleaned_up(
    azure: FakeArm, make: Make
) -> None:
    """The request is accepted, its operation fails; the interface and address that were made do not stay."""
    azure.troubles = [Trouble("PUT", "/virtualMachines/", "ZonalAllocationFailed", "No capacity.", late=True)]
    driver = make()
    with pytest.raises(CapacityError, match="ZonalAllocationFailed"):
        await driver.launch(launch_request())
    await eventually(lambda: not (azure.world.names(VM) or azure.world.names(NIC) or azure.world.names(IP)))
    assert await driver.list() == []


async def test_a_vm_that_fails_later_is_listed_as_stopped_and_leaves_nothing(azure: FakeArm, make: Make) -> None:
    """Nobody waits for the launch any more; the list says that the VM must be ended."""
    azure.world.create_s = 0.3
    azure.troubles = [Trouble("PUT", "/virtualMachines/", "AllocationFailed", "No capacity.", late=True)]
    driver = make()
    driver.settle_s = 0.0
    machine = await driver.launch(launch_request())

    async def stopped() -> bool:
        return [m.state for m in await driver.list()] == [MachineState.STOPPED]

    await eventually(stopped)
    await driver.terminate(machine.id)
    await eventually(lambda: not (azure.world.names(VM) or azure.world.names(IP)))


async def test_a_spot_price_above_the_limit_is_a_price_error(azure: FakeArm, make: Make) -> None:
    """The fake compares as Azure does: with the limit that it was told."""
    azure.world.spot_usd[SIZE] = 2.0
    with pytest.raises(PriceError, match="raise max_usd_per_hour"):
        await make(pool='max_usd_per_hour = "1.50 USD/h"').launch(launch_request())


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
    await driver.launch(launch_request())
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
    await driver.launch(launch_request())
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
                await driver.launch(launch_request())
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
    machine = await driver.launch(launch_request())
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
    machine = await driver.launch(launch_request())
    await driver.terminate(machine.id)
    assert [m.state for m in await driver.list()] == [MachineState.STOPPING]


async def test_a_spot_vm_that_azure_takes_back_vanishes_with_all_it_had(azure: FakeArm, make: Make) -> None:
    """Eviction policy Delete; nothing is left to pay for."""
    driver = make()
    await driver.launch(launch_request())
    await running(driver)
    azure.world.evict("small-1")
    assert await driver.list() == []
    assert [azure.world.names(kind) for kind in (NIC, IP, DISK)] == [[], [], []]


async def test_a_drill_has_azure_simulate_the_eviction(azure: FakeArm, make: Make) -> None:
    """One POST to the VM's simulateEviction; an on-demand VM is refused in Azure's own words."""
    driver = make()
    spot = await driver.launch(launch_request())
    await driver.preempt(spot.id)
    assert [r.path.rpartition("/")[2] for r in azure.sent("POST")] == ["simulateEviction"]
    assert azure.world.names(VM) == []
    own = await driver.launch(launch_request("small-2", market=Market.ON_DEMAND))
    with pytest.raises(CloudError, match="Spot VMs only"):
        await driver.preempt(own.id)


async def test_a_vm_that_shut_itself_down_is_stopped(azure: FakeArm, make: Make) -> None:
    """Its dead-man switch turns it off, Azure goes on billing: it must be ended."""
    driver = make()
    await driver.launch(launch_request())
    await running(driver)
    azure.world.shut_down("small-1")
    assert [m.state for m in await driver.list()] == [MachineState.STOPPED]


async def test_a_login_that_may_not_see_power_states_still_lists(azure: FakeArm, make: Make) -> None:
    """The list of the subscription is refused; that of the group is what counts."""
    azure.troubles = [Trouble("GET", "/virtualMachines\\?.*statusOnly", "AuthorizationFailed", "No.", status=403)]
    driver = make()
    await driver.launch(launch_request())
    assert len(await running(driver)) == 1


async def test_lists_of_several_pages_are_read_to_their_end(azure: FakeArm, make: Make) -> None:
    """Seven VMs on pages of three."""
    azure.page_size = 3
    driver = make()
    await asyncio.gather(*(driver.launch(launch_request(f"small-{number}")) for number in range(7)))
    assert {m.name for m in await running(driver, 7)} == {f"small-{number}" for number in range(7)}
    assert len(azure.sent("PUT", "/networkSecurityGroups/")) == 1


async def test_a_list_costs_few_requests(azure: FakeArm, make: Make) -> None:
    """One a region once addresses are known, and one a minute for the power states of all."""
    driver = make()
    await driver.launch(launch_request())
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
    await driver.launch(launch_request())
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
    machine = await driver.launch(launch_request())
    (vm,) = host.booted
    assert (vm.cloud, vm.name, vm.zone, vm.spot, vm.ssh_user) == (
        "azure",
        "small-1",
        "eastus/1",
        True,
        "azureuser",
    )
    assert vm.user_data.startswith("#cloud-config\n")
    assert vm.authorized_key == launch_request().authorized_key
    await driver.terminate(machine.id)
    assert host.ended == ["small-1"]
