"""What the Azure driver has besides VMs: network, leftovers, login, prices, and the contract of its requests."""

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from hedgeserve.drivers.tags import SERVICE, tags_for
from hedgeserve.errors import (
    AuthError,
    CloudError,
)
from hedgeserve.replica import Market
from hedgeserve.specfile import parse_spec
from tests.clouds.arm_world import DISK, IP, VM
from tests.clouds.azure_bench import *  # noqa: F403
from tests.clouds.azure_bench import GROUP, SIZE, TOML, Credential, Make, QuickDriver, launch_request, running
from tests.clouds.fake_arm import SUBSCRIPTION, FakeArm, price_row
from tests.conftest import eventually

DOC = Path(__file__).parent.parent / "docs" / "clouds" / "azure.md"


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
        await make().launch(launch_request())
    assert not azure.sent("PUT")


async def test_a_group_that_is_being_deleted_is_not_used(azure: FakeArm, make: Make) -> None:
    """Its end is waited for, by who tries again."""
    azure.world.put_group(GROUP, {"location": "eastus", "tags": {SERVICE: "small"}})
    azure.world.delete_s = 60.0
    azure.world.delete_group(GROUP)
    with pytest.raises(CloudError, match="still being deleted"):
        await make().launch(launch_request())


# Leftovers


async def test_leftovers_are_found_and_taken_away_in_order_the_group_last(azure: FakeArm, make: Make) -> None:
    """What is in use is said to be; once the VMs are gone all of it goes, and nothing is left."""
    driver = make()
    machine = await driver.launch(launch_request())
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
    await driver.launch(launch_request("small-2"))
    assert azure.world.names(VM) == ["small-2"]


async def test_a_leaked_disk_and_address_are_found(azure: FakeArm, make: Make) -> None:
    """Something that no VM uses: the disk by its name, for the API gives it no tags."""
    driver = make()
    await driver.launch(launch_request())
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
    await driver.launch(launch_request())
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
    await driver.launch(launch_request())
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
        await driver.launch(launch_request())
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


# The role


async def test_the_role_in_the_documentation_allows_every_request(azure: FakeArm, make: Make) -> None:
    """A whole life is played; each of its requests needs an action, which the role has."""
    driver = make()
    machine = await driver.launch(launch_request())
    await running(driver)
    await driver.everyone()
    await driver.terminate(machine.id)
    await eventually(lambda: not azure.world.names(VM))
    for left in await driver.leftovers():
        await driver.clear(left)
    found = re.search(r"```json\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert found
    allowed = {action.lower() for action in json.loads(found[1])["Actions"]}
    assert {_action(sent.method, sent.path) for sent in azure.requests} <= allowed


def _action(method: str, path: str) -> str:
    """The action of Azure's access control that a request needs."""
    parts = path.lower().strip("/").split("/")[2:]
    verb = {"GET": "read", "PUT": "write", "DELETE": "delete"}[method]
    if "providers" in parts:
        provider, *rest = parts[parts.index("providers") + 1 :]
        return "/".join([provider, *rest[::2], verb])
    return "/".join(["microsoft.resources/subscriptions", *parts[::2], verb])


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
        await make().launch(launch_request())
    found = list(azure.violations)
    azure.violations.clear()
    assert any(said in violation for violation in found), found


async def test_a_wrong_query_version_or_path_does_not_pass(azure: FakeArm, make: Make) -> None:
    """As far as the API's own packages tell."""
    from tests.clouds.contract_arm import ArmRequest, violations

    sent = azure.sent
    await make().launch(launch_request())
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
