"""The GCP driver against a fake Compute Engine that holds every request to Google's own description."""

import copy
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.drivers.base import MachineState
from hedgeserve.drivers.gcpcloud.bodies import price_of
from hedgeserve.drivers.tags import LEASE, REPLICA, SERVICE
from hedgeserve.errors import AuthError, CapacityError, CloudError, QuotaError, ThrottledError, UnsupportedError
from hedgeserve.replica import Market
from tests.clouds import contract_gce
from tests.clouds.fake_gce import FakeGce
from tests.clouds.gce_bench import *  # noqa: F403
from tests.clouds.gce_bench import PUBLIC_KEY, ZONE, Make, inserted, launch_request
from tests.clouds.gce_rules import image

INSERTS = "/instances$"

# Launching


async def test_a_spot_vm_comes_with_all_it_needs_in_one_request(gce: FakeGce, make: Make) -> None:
    """One insert with a request id; VM and disk bear the labels, and both go at a preemption."""
    machine = await make().launch(launch_request())
    assert (machine.id, machine.zone) == (f"{ZONE}/chat-1", f"gcp/{ZONE}")
    assert (machine.state, machine.gpus, machine.ssh_user) == (MachineState.PENDING, 1, "hedgeserve")
    body = inserted(gce)
    assert gce.calls("instances.insert")[0].query["requestId"]
    assert body["scheduling"] == {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
    }
    (disk,) = body["disks"]
    assert body["labels"] == disk["initializeParams"]["labels"]
    assert (body["labels"][SERVICE], body["labels"][REPLICA], body["labels"][LEASE]) == ("chat", "chat-1", "900")
    assert (disk["boot"], disk["autoDelete"]) == (True, True)
    assert body["machineType"] == "zones/us-central1-a/machineTypes/g2-standard-8"
    assert "guestAccelerators" not in body
    assert "serviceAccounts" not in body
    metadata = {one["key"]: one["value"] for one in body["metadata"]["items"]}
    assert metadata["ssh-keys"] == f"hedgeserve:{PUBLIC_KEY}"
    assert metadata["user-data"].startswith("#cloud-config\n")
    assert metadata["hedgeserve-notice-s"] == "30"
    assert body["networkInterfaces"][0]["accessConfigs"]


async def test_on_demand_vms_are_standard(gce: FakeGce, make: Make) -> None:
    """They are neither deleted nor restarted by Google."""
    machine = await make().launch(launch_request(market=Market.ON_DEMAND))
    assert machine.market is Market.ON_DEMAND
    plan = inserted(gce)["scheduling"]
    assert plan["provisioningModel"] == "STANDARD"
    assert "instanceTerminationAction" not in plan


async def test_gpus_are_attached_to_machines_that_bring_none(gce: FakeGce, make: Make) -> None:
    """A type such as n1-standard-8+T4:1; its list gives back what the pool has."""
    driver = make(types='["n1-standard-8+T4:1"]')
    await driver.launch(launch_request(instance_type="n1-standard-8+T4:1"))
    (accelerator,) = inserted(gce)["guestAccelerators"]
    assert accelerator == {
        "acceleratorType": "zones/us-central1-a/acceleratorTypes/nvidia-tesla-t4",
        "acceleratorCount": 1,
    }
    (machine,) = await driver.list()
    assert (machine.instance_type, machine.gpus) == ("n1-standard-8+T4:1", 1)


async def test_a_type_that_is_none_is_unsupported(gce: FakeGce, make: Make) -> None:
    """Before anything is asked for."""
    with pytest.raises(UnsupportedError, match="no instance type of GCP"):
        await make().launch(launch_request(instance_type="g2_standard!"))
    assert not gce.calls("instances.insert")


async def test_a_longer_notice_is_asked_for(gce: FakeGce, make: Make) -> None:
    """And told to the watcher on the VM."""
    await make(gcp='notice = "120s"').launch(launch_request())
    body = inserted(gce)
    assert body["scheduling"]["preemptionNoticeDuration"] == {"seconds": "120"}
    assert {"key": "hedgeserve-notice-s", "value": "120"} in body["metadata"]["items"]


async def test_networks_accounts_and_private_addresses(gce: FakeGce, make: Make) -> None:
    """What [gcp] and [vm] name is what is asked for."""
    driver = make(
        vm='address = "private"',
        gcp='service_account = "a@b"\nsubnetworks = {us-central1 = "inside"}',
    )
    await driver.launch(launch_request())
    body = inserted(gce)
    (interface,) = body["networkInterfaces"]
    assert interface["subnetwork"] == "projects/proj/regions/us-central1/subnetworks/inside"
    assert "accessConfigs" not in interface
    assert body["serviceAccounts"][0]["email"] == "a@b"
    (machine,) = await driver.list()
    assert machine.address == "192.0.2.7"


async def test_the_same_launch_twice_is_one_vm(gce: FakeGce, make: Make) -> None:
    """By its request id, and, once Google has forgotten that, by the token in the VM's metadata."""
    driver = make()
    first = await driver.launch(launch_request())
    assert (await driver.launch(launch_request())).id == first.id
    gce.world.asked.clear()
    assert (await driver.launch(launch_request())).id == first.id
    assert len(gce.world.instances) == 1


async def test_another_vm_of_that_name_is_not_taken_for_this_launch(gce: FakeGce, make: Make) -> None:
    """Its token is another."""
    driver = make()
    await driver.launch(launch_request())
    (vm,) = gce.world.instances.values()
    vm["metadata"]["items"] = []
    gce.world.asked.clear()
    with pytest.raises(CloudError, match="already exists"):
        await driver.launch(launch_request())


async def test_an_answer_that_was_lost_is_asked_for_again(gce: FakeGce, make: Make) -> None:
    """With the same request id, so that there is one VM."""
    gce.fault("POST", INSERTS, lost=True)
    await make().launch(launch_request())
    first, second = gce.calls("instances.insert")
    assert first.query["requestId"] == second.query["requestId"]
    assert len(gce.world.instances) == 1


# Images


async def test_the_newest_image_is_looked_for_once(gce: FakeGce, make: Make) -> None:
    """The newest driver comes before the newest build; deprecated ones and ones for ARM do not count."""
    stem = "common-cu129-ubuntu-2204-nvidia"
    gce.world.images += [
        image("newest-driver", f"{stem}-590"),
        image("older-driver", f"{stem}-570", creationTimestamp="2026-12-01T00:00:00Z"),
        image("deprecated", f"{stem}-600", deprecated={"state": "DEPRECATED"}),
        image("arm", f"{stem}-600", architecture="ARM64"),
    ]
    driver = make()
    await driver.launch(launch_request())
    assert inserted(gce)["disks"][0]["initializeParams"]["sourceImage"].endswith("/newest-driver")
    await driver.launch(launch_request("chat-2"))
    assert len(gce.calls("images.list")) == 1


async def test_a_pinned_image_is_taken_as_it_is(gce: FakeGce, make: Make) -> None:
    """A bare name is one of the project's own."""
    gce.world.images.append(image("mine", "mine"))
    await make(gcp='image = "mine"').launch(launch_request())
    assert inserted(gce)["disks"][0]["initializeParams"]["sourceImage"] == "projects/proj/global/images/mine"
    assert not gce.calls("images.list")


async def test_no_image_says_what_to_do(gce: FakeGce, make: Make) -> None:
    """It names the field that mends it."""
    gce.world.images.clear()
    with pytest.raises(UnsupportedError, match=r"gcp\.image"):
        await make().launch(launch_request())


# Refusals


@pytest.mark.parametrize("code", ["ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"])
async def test_a_stockout_in_the_operation_is_one_of_capacity(gce: FakeGce, make: Make, code: str) -> None:
    """It comes after the request was accepted, and leaves nothing."""
    gce.fault("POST", INSERTS, code=code)
    driver = make()
    with pytest.raises(CapacityError, match="us-central1-a"):
        await driver.launch(launch_request())
    assert await driver.list() == []


async def test_a_quota_is_no_lack_of_capacity(gce: FakeGce, make: Make) -> None:
    """At once or in the operation."""
    driver = make()
    gce.fault("POST", INSERTS, code="QUOTA_EXCEEDED", message="Quota 'PREEMPTIBLE_NVIDIA_L4_GPUS' exceeded.")
    with pytest.raises(QuotaError, match="PREEMPTIBLE_NVIDIA_L4_GPUS"):
        await driver.launch(launch_request())
    gce.fault("POST", INSERTS, status=403, code="quotaExceeded")
    with pytest.raises(QuotaError, match="Quotas"):
        await driver.launch(launch_request("chat-2"))


async def test_throttling_is_waited_for(gce: FakeGce, make: Make) -> None:
    """Again and again, but not for ever."""
    driver = make()
    gce.fault("POST", INSERTS, status=403, code="rateLimitExceeded", times=2)
    await driver.launch(launch_request())
    assert len(gce.calls("instances.insert")) == 3
    gce.fault("GET", "/aggregated/instances", status=429, code="rateLimitExceeded", times=99)
    with pytest.raises(ThrottledError):
        await driver.list()


async def test_breakdowns_are_asked_again_and_then_told(gce: FakeGce, make: Make) -> None:
    """Also where the answer is a proxy's page."""
    driver = make()
    gce.fault("GET", "/aggregated/instances", status=503, code="backendError", times=1)
    gce.fault("GET", "/aggregated/instances", status=502, raw="<html>Bad Gateway</html>", times=1)
    assert await driver.list() == []
    gce.fault("GET", "/aggregated/instances", status=503, code="backendError", times=3)
    with pytest.raises(CloudError, match="could not list the VMs"):
        await driver.list()


async def test_a_launch_without_an_answer_is_a_plain_error(gce: FakeGce, make: Make) -> None:
    """Nobody knows whether there is a VM."""
    gce.fault("POST", INSERTS, status=500, code="internalError", times=3)
    with pytest.raises(CloudError) as failed:
        await make().launch(launch_request())
    assert type(failed.value) is CloudError


async def test_a_missing_permission_is_named(gce: FakeGce, make: Make) -> None:
    """And where the role is that has it."""
    gce.fault(
        "POST",
        INSERTS,
        status=403,
        code="forbidden",
        info="IAM_PERMISSION_DENIED",
        permission="compute.instances.create",
    )
    with pytest.raises(AuthError, match=r"compute\.instances\.create; docs/clouds/gcp\.md"):
        await make().launch(launch_request())


# Listing and ending


async def test_all_pages_of_all_regions_are_one_list(gce: FakeGce, make: Make) -> None:
    """Asked for once, without what is not used."""
    gce.page = 2
    driver = make()
    for number in range(3):
        await driver.launch(launch_request(f"chat-{number}"))
    await driver.launch(launch_request("chat-far", zone="us-east4/us-east4-c"))
    gce.seen.clear()
    found = await driver.list()
    assert {machine.name for machine in found} == {"chat-0", "chat-1", "chat-2", "chat-far"}
    assert {machine.address for machine in found} == {"192.0.2.7"}
    assert {machine.state for machine in found} == {MachineState.RUNNING}
    assert gce.methods() == ["instances.aggregatedList"] * 2
    assert "metadata" not in gce.seen[0].query["fields"]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PROVISIONING", MachineState.PENDING),
        ("STAGING", MachineState.PENDING),
        ("RUNNING", MachineState.RUNNING),
        ("STOPPING", MachineState.STOPPING),
        ("TERMINATED", MachineState.STOPPED),
        ("SUSPENDED", MachineState.STOPPED),
        ("REPAIRING", MachineState.STOPPED),
    ],
)
async def test_states(gce: FakeGce, make: Make, status: str, state: MachineState) -> None:
    """A VM that has stopped still costs its disk, and is to be ended."""
    driver = make()
    await driver.launch(launch_request())
    (vm,) = gce.world.instances.values()
    vm["status"] = status
    (machine,) = await driver.list()
    assert machine.state is state


async def test_other_services_and_regions_are_left_out(gce: FakeGce, make: Make) -> None:
    """Everyone's VMs are those of every service, in the pools' regions."""
    driver = make()
    await driver.launch(launch_request())
    (vm,) = gce.world.instances.values()
    for name, zone in (("other", "us-central1-a"), ("afar", "asia-east1-a")):
        other = {**vm, "name": name, "zone": f"https://x/zones/{zone}", "labels": {SERVICE: "other"}}
        gce.world.instances[(zone, name)] = other
    assert [machine.name for machine in await driver.list()] == ["chat-1"]
    assert {machine.name for machine in await driver.everyone()} == {"chat-1", "other"}


async def test_a_zone_that_cannot_be_looked_into_is_no_empty_zone(gce: FakeGce, make: Make) -> None:
    """Unless it is none of ours."""
    driver = make()
    gce.world.unreachable = {"asia-east1-a"}
    assert await driver.list() == []
    gce.world.unreachable = {"us-east4-c"}
    with pytest.raises(CloudError, match="us-east4-c"):
        await driver.list()


async def test_ending_a_vm_takes_its_disk(gce: FakeGce, make: Make) -> None:
    """One that is not known any more is no error."""
    driver = make()
    machine = await driver.launch(launch_request())
    await driver.list()
    await driver.terminate(machine.id)
    assert await driver.list() == []
    assert not gce.world.disks
    await driver.terminate(machine.id)


async def test_a_preempted_vm_is_gone(gce: FakeGce, make: Make) -> None:
    """With its disk."""
    driver = make()
    await driver.launch(launch_request())
    assert len(await driver.list()) == 1
    gce.preempt("chat-1")
    assert await driver.list() == []
    assert not gce.world.disks


async def test_a_drill_has_google_simulate_the_event_that_preempts(gce: FakeGce, make: Make) -> None:
    """One call to the VM's simulateMaintenanceEvent; Compute Engine does the rest."""
    driver = make()
    machine = await driver.launch(launch_request())
    assert len(await driver.list()) == 1
    await driver.preempt(machine.id)
    assert len(gce.calls("instances.simulateMaintenanceEvent")) == 1
    assert await driver.list() == []


async def test_a_refused_simulation_says_why(gce: FakeGce, make: Make) -> None:
    """Google allows few of them: what it says is passed on."""
    driver = make()
    machine = await driver.launch(launch_request())
    gce.fault(
        "POST",
        "simulateMaintenanceEvent",
        status=403,
        code="rateLimitExceeded",
        message="Rate Limit Exceeded",
        times=99,
    )
    with pytest.raises(CloudError):
        await driver.preempt(machine.id)
    assert len(await driver.list()) == 1


# The firewall


async def test_the_firewall_lets_in_nobody_else(gce: FakeGce, make: Make) -> None:
    """Two rules for the service, made once."""
    driver = make()
    await driver.launch(launch_request())
    await driver.launch(launch_request("chat-2", zone="us-east4/us-east4-c"))
    assert len(gce.calls("firewalls.insert")) == 2
    allow, deny = gce.world.firewalls["hedgeserve-chat"], gce.world.firewalls["deny-hedgeserve-chat"]
    assert allow["sourceRanges"] == ["203.0.113.7/32"]
    assert allow["allowed"] == [{"IPProtocol": "tcp", "ports": ["22", "8000"]}]
    assert (deny["sourceRanges"], deny["denied"]) == (["0.0.0.0/0"], [{"IPProtocol": "all"}])
    assert allow["priority"] < deny["priority"]
    assert allow["targetTags"] == deny["targetTags"] == inserted_tags(gce)
    assert not gce.calls("firewalls.patch")


def inserted_tags(gce: FakeGce) -> list[str]:
    """The network tags of the first VM."""
    body = gce.calls("instances.insert")[0].body
    assert body is not None
    return list(body["tags"]["items"])


async def test_the_firewall_follows_the_networks(gce: FakeGce, make: Make) -> None:
    """Only what differs is changed."""
    await make().launch(launch_request())
    await make(allow_from='["198.51.100.0/24"]').launch(launch_request("chat-2"))
    (patch,) = gce.calls("firewalls.patch")
    assert patch.path.endswith("/hedgeserve-chat")
    assert gce.world.firewalls["hedgeserve-chat"]["sourceRanges"] == ["198.51.100.0/24"]


async def test_a_rule_of_somebody_else_is_not_touched(gce: FakeGce, make: Make) -> None:
    """It is refused."""
    gce.world.firewalls["hedgeserve-chat"] = {"name": "hedgeserve-chat", "description": "mine"}
    with pytest.raises(CloudError, match="HedgeServe has not made"):
        await make().launch(launch_request())
    assert not gce.calls("instances.insert")


# Leftovers


async def test_what_is_left_can_be_cleared(gce: FakeGce, make: Make) -> None:
    """Disks and rules; afterwards nothing is there, and a launch makes the rules anew."""
    driver = make()
    await driver.launch(launch_request())
    (disk,) = gce.world.disks.values()
    disk["autoDelete"] = False
    assert {(one.kind, one.in_use) for one in await driver.leftovers()} == {
        ("disk", True),
        ("firewall rule", True),
    }
    await driver.list()
    await driver.terminate(f"{ZONE}/chat-1")
    await driver.list()
    left = await driver.leftovers()
    assert {(one.kind, one.service) for one in left} == {("disk", "chat"), ("firewall rule", "chat")}
    for one in left:
        await driver.clear(one)
        await driver.clear(one)
    assert await driver.leftovers() == []
    assert not gce.world.firewalls
    assert not gce.world.disks
    await driver.launch(launch_request("chat-2"))
    assert len(gce.world.firewalls) == 2


async def test_a_disk_in_use_cannot_be_cleared(gce: FakeGce, make: Make) -> None:
    """Google says so."""
    driver = make()
    await driver.launch(launch_request())
    disk = next(one for one in await driver.leftovers() if one.kind == "disk")
    with pytest.raises(CloudError, match="still uses it"):
        await driver.clear(disk)


# Prices


def told_price(usd: int, nanos: int, since: str) -> dict[str, Any]:
    """One record of a history."""
    return {
        "listPrice": {"currencyCode": "USD", "units": str(usd), "nanos": nanos},
        "interval": {"startTime": since},
    }


async def test_the_latest_spot_price_counts(gce: FakeGce, make: Make) -> None:
    """For all zones of the region."""
    history = [
        told_price(0, 500_000_000, "2026-01-01T00:00:00Z"),
        told_price(0, 250_000_000, "2026-02-01T00:00:00Z"),
    ]
    gce.world.prices["g2-standard-8"] = history
    found = await make().prices("us-central1", ["g2-standard-8"])
    assert found == {(ZONE, "g2-standard-8", Market.SPOT): 0.25}
    assert price_of({}) is None


async def test_prices_that_are_not_told_are_left_out(gce: FakeGce, make: Make) -> None:
    """The catalogue's stand."""
    gce.fault("POST", "/advice/capacityHistory", status=403, code="forbidden", times=9)
    driver = make()
    assert await driver.prices("us-central1", ["g2-standard-8"]) == {}
    assert {offer.zone for offer in await driver.offers()} == {f"gcp/{ZONE}", "gcp/us-east4/us-east4-c"}


# Credentials


async def test_a_key_file_is_exchanged_for_a_token_once(gce: FakeGce, make: Make) -> None:
    """And its project is the one that is asked."""
    driver = make()
    await driver.list()
    await driver.list()
    assert len(gce.tokens.asked) == 1
    assert gce.seen[0].path.startswith("/compute/v1/projects/proj/")


async def test_no_credentials_say_what_to_do(make: Make) -> None:
    """In one sentence."""
    with pytest.raises(AuthError, match="gcloud auth application-default login"):
        await make(environ={"NO_GCE_CHECK": "true"}).list()


@pytest.mark.parametrize("content", ["{", "[]", '{"type": "unheard of"}', '{"type": "service_account"}'])
async def test_a_file_that_holds_none_is_named(make: Make, tmp_path: Path, content: str) -> None:
    """Without what is in it."""
    file = tmp_path / "odd.json"
    file.write_text(content)
    with pytest.raises(AuthError, match=r"odd\.json"):
        await make(environ={"GOOGLE_APPLICATION_CREDENTIALS": str(file)}).list()


async def test_a_refused_key_is_an_error_of_credentials(gce: FakeGce, make: Make) -> None:
    """The key was deleted, or the account disabled."""
    gce.tokens.refused = "invalid_grant"
    with pytest.raises(AuthError, match="no token could be had"):
        await make().list()


async def test_a_project_that_is_not_there(make: Make) -> None:
    """Or that the account may not see."""
    with pytest.raises(AuthError, match="no project elsewhere"):
        await make(gcp='project = "elsewhere"').list()


# The contract that all of this is held to


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("scheduling", "provisioningModel"), "PREEMPTIBLE", "is none of"),
        (("scheduling", "automaticRestart"), "false", "neither true nor false"),
        (("disks", 0, "autodelete"), True, "does not exist"),
        (("disks", 0, "initializeParams", "diskSizeGb"), "big", "no number"),
        (("status",), "RUNNING", "output only"),
    ],
)
async def test_the_contract_sees_wrong_fields(
    gce: FakeGce, make: Make, place: tuple[str | int, ...], value: object, complaint: str
) -> None:
    """A request of the driver's with one thing wrong is told from the right one."""
    await make().launch(launch_request())
    (seen,) = gce.calls("instances.insert")
    body: Any = copy.deepcopy(seen.body)
    assert contract_gce.violations(seen.verb, seen.path, seen.query, body) == []
    *way, last = place
    inner = body
    for step in way:
        inner = inner[step]
    inner[last] = value
    (problem,) = contract_gce.violations(seen.verb, seen.path, seen.query, body)
    assert complaint in problem
    (problem,) = contract_gce.violations(seen.verb, seen.path, {"request_id": "1"}, seen.body)
    assert "no query parameter request_id" in problem
